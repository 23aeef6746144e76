#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/uio.h>

#include "../support/bytes.h"
#include "amqp/content.h"
#include "amqp/method.h"

enum { MIB = 1024 * 1024, CHANNEL_IN = 5, CHANNEL_OUT = 0x0A0B };

/* Lays frames into slabs, one behind the other, as a reader does. */
struct feeder {
    struct slab *slab;
    struct content content;
    struct bytes method, header;
};

static struct frame lay_frame(struct feeder *f, uint8_t type, const void *payload, size_t len)
{
    size_t size = len + FRAME_OVERHEAD_BYTES;
    if (!f->slab || f->slab->capacity - f->slab->used < size) {
        if (f->slab)
            slab_unref(f->slab);
        f->slab = slab_new(size < SLAB_BYTES ? SLAB_BYTES : size);
        ENSURE(f->slab);
    }
    uint8_t *at = f->slab->data + f->slab->used;
    if (len > 0)
        memcpy(at + FRAME_HEAD_BYTES, payload, len);
    f->slab->used += frame_wrap(at, type, CHANNEL_IN, (uint32_t)len);
    return (struct frame){.type = type,
                          .channel = CHANNEL_IN,
                          .payload_len = (uint32_t)len,
                          .payload = at + FRAME_HEAD_BYTES};
}

static void put_method(struct bytes *b)
{
    put32(b, AMQP_BASIC_PUBLISH_METHOD);
    put16(b, 0);
    put_short_string(b, "exchange");
    put_short_string(b, "key");
    put8(b, 0);
}

/* A header of at least `padding` bytes, most of them one long string in the headers. */
static void put_padded_header(struct bytes *b, uint64_t body_size, size_t padding)
{
    put_header(b, 60, 0, body_size, AMQP_BASIC_HEADERS_FLAG);
    size_t begin = put_begin(b);
    put_short_string(b, "padding");
    put8(b, 'S');
    put32(b, (uint32_t)padding);
    memset(bytes_grow(b, padding), 'p', padding);
    put_end(b, begin);
}

static uint8_t body_byte(uint64_t at)
{
    return (uint8_t)(at * 31 + (at >> 8) * 17 + (at >> 16));
}

static uint8_t *make_body(size_t len)
{
    uint8_t *body = malloc(len + 1);
    ENSURE(body);
    for (size_t i = 0; i < len; i++)
        body[i] = body_byte(i);
    return body;
}

/* A message of `body_size` bytes that came in frames of at most `frame_max`. */
static void make_message(struct message *message, size_t body_size, size_t frame_max,
                         size_t padding)
{
    struct feeder f = {0};
    content_init(&f.content);
    put_method(&f.method);
    put_padded_header(&f.header, body_size, padding);
    uint8_t *body = make_body(body_size);
    struct frame frame = lay_frame(&f, FRAME_METHOD, f.method.data, f.method.len);
    content_begin(&f.content, f.slab, &frame);
    frame = lay_frame(&f, FRAME_HEADER, f.header.data, f.header.len);
    enum content_result result = content_feed(&f.content, f.slab, &frame, body_size);
    for (size_t at = 0; at < body_size;) {
        assert_int_equal(result, CONTENT_MORE);
        size_t piece = frame_max - FRAME_OVERHEAD_BYTES;
        if (piece > body_size - at)
            piece = body_size - at;
        frame = lay_frame(&f, FRAME_BODY, body + at, piece);
        result = content_feed(&f.content, f.slab, &frame, body_size);
        at += piece;
    }
    assert_int_equal(result, CONTENT_COMPLETE);
    message_move(message, &f.content.message);
    slab_unref(f.slab);
    free(body);
    bytes_free(&f.method);
    bytes_free(&f.header);
}

/* What a writer gets. */
struct sink {
    struct bytes out;
    unsigned runs;
};

static void on_emit(void *arg, struct slab *slab, uint8_t *at, size_t len)
{
    struct sink *sink = arg;
    assert_true(len > 0 && at >= slab->data && at + len <= slab->data + slab->capacity);
    assert_true(slab->refs > 0);
    put_bytes(&sink->out, at, len);
    sink->runs++;
}

/* The bytes must be one method, one header and body frames within frame_max that make the body;
 * returns the number of frames. */
static size_t assert_framed(const struct bytes *out, const struct message *message,
                            uint32_t frame_max)
{
    size_t frames = 0;
    uint64_t body = 0;
    for (size_t at = 0; at < out->len; frames++) {
        struct frame frame;
        size_t need;
        assert_int_equal(frame_scan(out->data + at, out->len - at, frame_max, &frame, &need),
                         FRAME_COMPLETE);
        assert_int_equal(frame.channel, CHANNEL_OUT);
        at += need;
        const struct span *whole = frames == 0   ? &message->method
                                   : frames == 1 ? &message->header
                                                 : NULL;
        assert_int_equal(frame.type, frames < 2 ? (int)frames + 1 : FRAME_BODY);
        if (whole) {
            assert_int_equal(frame.payload_len, whole->len);
            assert_memory_equal(frame.payload, whole->at, whole->len);
            continue;
        }
        assert_true(frame.payload_len > 0);
        size_t wrong = 0;
        for (uint32_t i = 0; i < frame.payload_len; i++)
            wrong += frame.payload[i] != body_byte(body++);
        assert_int_equal(wrong, 0);
    }
    assert_true(frames >= 2);
    assert_true(body == message->body_size);
    return frames;
}

static unsigned assert_frames_right(struct message *message, uint32_t frame_max, size_t *frames)
{
    struct sink sink = {0};
    assert_true(message_frame(message, CHANNEL_OUT, frame_max, on_emit, &sink));
    *frames = assert_framed(&sink.out, message, frame_max);
    bytes_free(&sink.out);
    return sink.runs;
}

static void small_messages_are_one_run(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 100, 4096 - FRAME_OVERHEAD_BYTES};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct message message;
        size_t frames;
        make_message(&message, sizes[i], 4096, 10);
        assert_int_equal(assert_frames_right(&message, 4096, &frames), 1);
        assert_int_equal(frames, sizes[i] == 0 ? 2 : 3);
        assert_int_equal(message_bytes(&message),
                         message.method.len + message.header.len + sizes[i]);
        message_clear(&message);
    }
    slab_trim();
}

static void one_byte_over_frame_max_is_cut(void **state)
{
    (void)state;
    static const size_t over[] = {4096 - 8, 4096 - 7, 2 * (4096 - 8), 2 * (4096 - 8) + 1};
    static const size_t expected[] = {3, 4, 4, 5};
    for (size_t i = 0; i < sizeof over / sizeof *over; i++) {
        struct message message;
        size_t frames;
        make_message(&message, over[i], 131072, 10);
        assert_frames_right(&message, 4096, &frames);
        assert_int_equal(frames, expected[i]);
        message_clear(&message);
    }
    slab_trim();
}

static void large_messages_in_slabs(void **state)
{
    (void)state;
    struct message message;
    size_t frames;
    make_message(&message, 10 * MIB, 131072, 10);
    assert_true(message.body_count == 81);
    unsigned runs = assert_frames_right(&message, 131072, &frames);
    assert_int_equal(frames, 83);
    assert_true(runs < frames); /* frames in one slab go out together */
    assert_frames_right(&message, 0, &frames);
    assert_int_equal(frames, 83);
    message_clear(&message);
    assert_int_equal(message.body_count, 0);
    slab_trim();
}

static void recut_leaves_the_message_whole(void **state)
{
    (void)state;
    struct message message;
    size_t frames;
    make_message(&message, 10 * MIB, 131072, 10);
    assert_frames_right(&message, 4096, &frames);
    /* 80 frames of 131064 bytes, 33 pieces each, and one of 640 bytes. */
    assert_int_equal(frames, 2 + 80 * 33 + 1);
    assert_frames_right(&message, 131072, &frames);
    assert_int_equal(frames, 83);
    assert_frames_right(&message, 65536, &frames);
    message_clear(&message);
    slab_trim();
}

/* Nor left where they were read. */
static void small_frames_are_not_joined(void **state)
{
    (void)state;
    struct message message;
    size_t frames;
    make_message(&message, 100000, 4096, 10);
    assert_int_equal(assert_frames_right(&message, 131072, &frames), 2);
    assert_int_equal(frames, 2 + 25);
    message_clear(&message);
    slab_trim();
}

static void header_over_frame_max_is_refused(void **state)
{
    (void)state;
    struct message message;
    struct sink sink = {0};
    size_t frames;
    make_message(&message, 10, 131072, 5000);
    assert_false(message_frame(&message, CHANNEL_OUT, 4096, on_emit, &sink));
    assert_int_equal(sink.runs, 0);
    assert_frames_right(&message, 8192, &frames);
    struct iovec method = {message.method.at, message.method.len};
    struct iovec header = {message.header.at, message.header.len};
    uint8_t out[8192];
    assert_int_equal(message_write(out, 1, 4096, &method, &header, NULL, 0), 0);
    message_clear(&message);
    slab_trim();
}

static void copies_hold_references(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 1 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct message message, copy, moved;
        size_t frames;
        make_message(&message, sizes[i], 131072, 10);
        struct slab *slab = message.method.slab;
        uint32_t refs = slab->refs;
        assert_true(message_copy(&copy, &message));
        assert_int_equal(slab->refs, 2 * refs);
        message_clear(&message);
        message_clear(&message); /* an empty one stays empty */
        assert_int_equal(slab->refs, refs);
        message_move(&moved, &copy);
        assert_int_equal(slab->refs, refs);
        message_clear(&copy);
        assert_frames_right(&moved, 131072, &frames);
        message_clear(&moved);
    }
    slab_trim();
}

/* Splits the body into parts of random sizes, some of them empty. */
static size_t split(uint64_t *random, uint8_t *body, size_t len, struct iovec *parts, size_t max)
{
    size_t count = 0;
    while (len > 0 && count + 1 < max) {
        size_t n = random_below(random, 4) == 0 ? 0 : random_below(random, len + 1);
        parts[count++] = (struct iovec){body, n};
        body += n;
        len -= n;
    }
    parts[count++] = (struct iovec){body, len};
    return count;
}

static void written_from_parts(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 4088, 4089, 8176, 100000, 1 * MIB};
    static const uint32_t limits[] = {0, 4096, 131072};
    uint64_t random = 3;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct message message;
        make_message(&message, sizes[i], 131072, 10);
        uint8_t *body = make_body(sizes[i]);
        struct iovec method = {message.method.at, message.method.len};
        struct iovec header = {message.header.at, message.header.len};
        for (size_t k = 0; k < sizeof limits / sizeof *limits; k++) {
            struct iovec parts[6];
            size_t count = split(&random, body, sizes[i], parts, 6);
            struct bytes out = {0};
            size_t size = message_framed_size(method.iov_len, header.iov_len, sizes[i], limits[k]);
            assert_int_equal(message_write(bytes_grow(&out, size), CHANNEL_OUT, limits[k], &method,
                                           &header, parts, count),
                             size);
            size_t frames = assert_framed(&out, &message, limits[k]);
            size_t piece = limits[k] ? limits[k] - 8 : SIZE_MAX;
            assert_int_equal(frames, 2 + sizes[i] / piece + (sizes[i] % piece != 0));
            bytes_free(&out);
        }
        free(body);
        message_clear(&message);
    }
    slab_trim();
}

static void body_parts_for_the_spool(void **state)
{
    (void)state;
    struct message message;
    make_message(&message, 300000, 131072, 10);
    struct iovec parts[8];
    assert_int_equal(message_body_iov(&message, parts, 8), 3);
    uint64_t at = 0;
    for (size_t i = 0; i < 3; i++) {
        assert_ptr_equal(parts[i].iov_base, message.body[i].at);
        assert_int_equal(parts[i].iov_len, message.body[i].len);
        at += parts[i].iov_len;
    }
    assert_int_equal(at, 300000);
    parts[1] = (struct iovec){0};
    assert_int_equal(message_body_iov(&message, parts, 1), 3);
    assert_null(parts[1].iov_base);
    message_clear(&message);
    make_message(&message, 0, 4096, 10);
    assert_int_equal(message_body_iov(&message, NULL, 0), 0);
    message_clear(&message);
    slab_trim();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_messages_are_one_run),
        cmocka_unit_test(one_byte_over_frame_max_is_cut),
        cmocka_unit_test(large_messages_in_slabs),
        cmocka_unit_test(recut_leaves_the_message_whole),
        cmocka_unit_test(small_frames_are_not_joined),
        cmocka_unit_test(header_over_frame_max_is_refused),
        cmocka_unit_test(copies_hold_references),
        cmocka_unit_test(written_from_parts),
        cmocka_unit_test(body_parts_for_the_spool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
