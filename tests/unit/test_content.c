#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/bytes.h"
#include "amqp/content.h"
#include "amqp/properties.h"
#include "amqp/table.h"

/* ---- header_check ---- */

static enum content_result check(const struct bytes *b)
{
    /* A copy of exactly this size, so that a read beyond it is found. */
    uint8_t *exact = malloc(b->len + 1);
    if (b->len > 0)
        memcpy(exact + 1, b->data, b->len);
    uint64_t body_size = 0;
    enum content_result result = header_check(exact + 1, b->len, &body_size);
    free(exact);
    return result;
}

/* A header whose only property is a table with the one value that is given. */
static enum content_result check_value(const void *value, size_t len)
{
    struct bytes b = {0};
    put_header(&b, 60, 0, 0, AMQP_BASIC_HEADERS_FLAG);
    size_t begin = put_begin(&b);
    put_short_string(&b, "key");
    put_bytes(&b, value, len);
    put_end(&b, begin);
    enum content_result result = check(&b);
    bytes_free(&b);
    return result;
}

static void body_size_is_read(void **state)
{
    (void)state;
    struct bytes b = {0};
    put_header(&b, 60, 0, UINT64_C(0x0123456789ABCDEF), 0);
    uint64_t body_size;
    assert_int_equal(header_check(b.data, b.len, &body_size), CONTENT_MORE);
    assert_true(body_size == UINT64_C(0x0123456789ABCDEF));
    bytes_free(&b);
}

static void class_and_weight(void **state)
{
    (void)state;
    struct bytes b = {0};
    put_header(&b, 90, 0, 0, 0);
    assert_int_equal(check(&b), CONTENT_WRONG_CLASS);
    b.len = 0;
    put_header(&b, 60, 1, 0, 0);
    assert_int_equal(check(&b), CONTENT_WRONG_CLASS);
    bytes_free(&b);
}

static void all_properties_and_each_truncation(void **state)
{
    (void)state;
    struct bytes b = {0};
    put_header(&b, 60, 0, 5, 0xFFFC);
    put_short_string(&b, "text/plain");
    put_short_string(&b, "gzip");
    size_t begin = put_begin(&b);
    put_short_string(&b, "k");
    put8(&b, 'A');
    size_t array = put_begin(&b);
    put8(&b, 'S');
    put_long_string(&b, "v");
    put8(&b, 'V');
    put_end(&b, array);
    put_end(&b, begin);
    put8(&b, 2);
    put8(&b, 9);
    for (unsigned i = 0; i < 4; i++)
        put_short_string(&b, "middle");
    put64(&b, 1700000000);
    for (unsigned i = 0; i < 4; i++)
        put_short_string(&b, "end");
    size_t whole = b.len;
    assert_int_equal(check(&b), CONTENT_MORE);
    for (b.len = 0; b.len < whole; b.len++)
        assert_int_equal(check(&b), CONTENT_MALFORMED);
    put8(&b, 0);
    assert_int_equal(check(&b), CONTENT_MALFORMED);
    bytes_free(&b);
}

static void unused_flags_are_refused(void **state)
{
    (void)state;
    for (unsigned flags = 1; flags < 4; flags++) {
        struct bytes b = {0};
        put_header(&b, 60, 0, 0, flags);
        assert_int_equal(check(&b), CONTENT_MALFORMED);
        put16(&b, 0); /* as if more flags followed */
        assert_int_equal(check(&b), CONTENT_MALFORMED);
        bytes_free(&b);
    }
}

static void each_flag_is_its_own_property(void **state)
{
    (void)state;
    static const char fields[] = "ssF11ssss8ssss";
    for (unsigned i = 0; i < sizeof fields - 1; i++) {
        size_t width = fields[i] == '8' ? 8 : fields[i] == 'F' ? 4 : 1;
        struct bytes b = {0};
        put_header(&b, 60, 0, 0, 0x8000 >> i);
        assert_int_equal(check(&b), CONTENT_MALFORMED);
        for (size_t n = 0; n < width; n++)
            put8(&b, 0);
        assert_int_equal(check(&b), CONTENT_MORE);
        put8(&b, 0);
        assert_int_equal(check(&b), CONTENT_MALFORMED);
        bytes_free(&b);
    }
}

static void field_types_and_their_widths(void **state)
{
    (void)state;
    static const struct {
        char type;
        size_t width;
    } known[] = {{'t', 1}, {'b', 1}, {'B', 1}, {'s', 2}, {'u', 2}, {'I', 4},
                 {'i', 4}, {'l', 8}, {'L', 8}, {'f', 4}, {'d', 8}, {'D', 5},
                 {'T', 8}, {'V', 0}, {'S', 4}, {'x', 4}, {'F', 4}, {'A', 4}};
    for (unsigned type = 0; type < 256; type++) {
        size_t width = SIZE_MAX;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
            if ((unsigned char)known[i].type == type)
                width = known[i].width;
        }
        uint8_t value[16] = {(uint8_t)type};
        if (width == SIZE_MAX) {
            for (size_t len = 0; len < 10; len++)
                assert_int_equal(check_value(value, 1 + len), CONTENT_MALFORMED);
            continue;
        }
        for (size_t len = 0; len < width; len++)
            assert_int_equal(check_value(value, 1 + len), CONTENT_MALFORMED);
        assert_int_equal(check_value(value, 1 + width), CONTENT_MORE);
    }
}

static void lengths_within_tables(void **state)
{
    (void)state;
    /* A string, table or array that runs over the table around it. */
    for (const char *type = "SxFA"; *type; type++) {
        uint8_t value[] = {(uint8_t)*type, 0, 0, 0, 3, 'V', 'V'};
        assert_int_equal(check_value(value, sizeof value), CONTENT_MALFORMED);
        value[1] = 0xFF;
        assert_int_equal(check_value(value, sizeof value), CONTENT_MALFORMED);
    }
    static const uint8_t array[] = {'A', 0, 0, 0, 2, 'V', 'V'};
    assert_int_equal(check_value(array, sizeof array), CONTENT_MORE);
    /* A key that is all there is of its field, and one that runs over the inner table into the
     * outer one, where its value would be. */
    static const uint8_t lone_key[] = {'F', 0, 0, 0, 2, 1, 'k'};
    assert_int_equal(check_value(lone_key, sizeof lone_key), CONTENT_MALFORMED);
    static const uint8_t across[] = {'F', 0, 0, 0, 1, 1, 'k', 'V'};
    assert_int_equal(check_value(across, sizeof across), CONTENT_MALFORMED);
    static const uint8_t no_key[] = {'F', 0, 0, 0, 2, 0, 'V'};
    assert_int_equal(check_value(no_key, sizeof no_key), CONTENT_MORE);
}

static enum content_result check_double(uint64_t bits)
{
    uint8_t value[9] = {'d'};
    wire_put64(value + 1, bits);
    return check_value(value, sizeof value);
}

static enum content_result check_float(uint32_t bits)
{
    uint8_t value[5] = {'f'};
    wire_put32(value + 1, bits);
    return check_value(value, sizeof value);
}

static void floats_are_finite(void **state)
{
    (void)state;
    assert_int_equal(check_double(UINT64_C(0x7FEFFFFFFFFFFFFF)), CONTENT_MORE); /* largest */
    assert_int_equal(check_double(1), CONTENT_MORE);                            /* denormal */
    assert_int_equal(check_double(UINT64_C(1) << 63), CONTENT_MORE);            /* -0 */
    assert_int_equal(check_double(UINT64_C(0x7FF0000000000000)), CONTENT_MALFORMED);
    assert_int_equal(check_double(UINT64_C(0xFFF0000000000000)), CONTENT_MALFORMED);
    assert_int_equal(check_double(UINT64_C(0x7FF8000000000000)), CONTENT_MALFORMED);
    assert_int_equal(check_float(0x7F7FFFFF), CONTENT_MORE);
    assert_int_equal(check_float(0x7F800000), CONTENT_MALFORMED);
    assert_int_equal(check_float(0xFF800000), CONTENT_MALFORMED);
    assert_int_equal(check_float(0x7FC00000), CONTENT_MALFORMED);
}

static enum content_result check_depth(unsigned depth, char type)
{
    struct bytes b = {0};
    size_t *begin = malloc((depth + 1) * sizeof *begin);
    put_header(&b, 60, 0, 0, AMQP_BASIC_HEADERS_FLAG);
    begin[1] = put_begin(&b);
    for (unsigned i = 2; i <= depth; i++) {
        if (type == 'F' || i == 2)
            put_short_string(&b, "");
        put8(&b, (unsigned)type);
        begin[i] = put_begin(&b);
    }
    for (unsigned i = depth; i >= 1; i--)
        put_end(&b, begin[i]);
    enum content_result result = check(&b);
    free(begin);
    bytes_free(&b);
    return result;
}

static void nesting_is_limited(void **state)
{
    (void)state;
    for (const char *type = "FA"; *type; type++) {
        assert_int_equal(check_depth(TABLE_DEPTH_MAX, *type), CONTENT_MORE);
        assert_int_equal(check_depth(TABLE_DEPTH_MAX + 1, *type), CONTENT_MALFORMED);
        assert_int_equal(check_depth(1000000, *type), CONTENT_MALFORMED);
    }
}

/* What the check accepts, librabbitmq must be able to read. */
static void damaged_headers(void **state)
{
    (void)state;
    uint64_t random = 1;
    size_t accepted = 0;
    enum { ROUNDS = 30000 };
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct bytes b = {0};
        put_random_header(&b, &random, 10);
        assert_int_equal(check(&b), CONTENT_MORE);
        for (size_t n = 1 + random_below(&random, 3); n > 0; n--)
            b.data[12 + random_below(&random, b.len - 12)] = (uint8_t)random_next(&random);
        if (random_below(&random, 8) == 0)
            b.len -= 1 + random_below(&random, b.len - 1);
        if (check(&b) == CONTENT_MORE) {
            struct properties properties;
            assert_true(properties_decode(&properties, b.data, b.len));
            properties_deinit(&properties);
            accepted++;
        }
        bytes_free(&b);
    }
    assert_true(accepted > ROUNDS / 20 && accepted < ROUNDS - ROUNDS / 20);
}

/* ---- content ---- */

/* Frames in a slab, as a reader leaves them. */
struct wire {
    struct slab *slab;
    struct content content;
};

static void wire_init(struct wire *w)
{
    w->slab = slab_new(SLAB_BYTES);
    content_init(&w->content);
}

static void wire_deinit(struct wire *w)
{
    content_deinit(&w->content);
    assert_int_equal(w->slab->refs, 1);
    slab_unref(w->slab);
    slab_trim();
}

static struct frame lay_frame(struct wire *w, uint8_t type, const void *payload, uint32_t len)
{
    uint8_t *at = w->slab->data + w->slab->used;
    ENSURE(w->slab->capacity - w->slab->used >= len + FRAME_OVERHEAD_BYTES);
    if (len > 0)
        memcpy(at + FRAME_HEAD_BYTES, payload, len);
    w->slab->used += frame_wrap(at, type, 5, len);
    return (struct frame){
        .type = type, .channel = 5, .payload_len = len, .payload = at + FRAME_HEAD_BYTES};
}

static void begin(struct wire *w)
{
    struct bytes b = {0};
    put32(&b, AMQP_BASIC_PUBLISH_METHOD);
    put16(&b, 0);
    put_short_string(&b, "");
    put_short_string(&b, "queue");
    put8(&b, 0);
    struct frame frame = lay_frame(w, FRAME_METHOD, b.data, (uint32_t)b.len);
    content_begin(&w->content, w->slab, &frame);
    bytes_free(&b);
}

static enum content_result feed(struct wire *w, uint8_t type, const void *payload, size_t len)
{
    struct frame frame = lay_frame(w, type, payload, (uint32_t)len);
    return content_feed(&w->content, w->slab, &frame, 1000);
}

static enum content_result feed_header(struct wire *w, uint64_t body_size)
{
    struct bytes b = {0};
    put_header(&b, 60, 0, body_size, 0);
    enum content_result result = feed(w, FRAME_HEADER, b.data, b.len);
    bytes_free(&b);
    return result;
}

static void assert_body(const struct message *message, const char *expected)
{
    struct bytes body = {0};
    for (uint32_t i = 0; i < message->body_count; i++)
        put_bytes(&body, message->body[i].at, message->body[i].len);
    assert_int_equal(body.len, strlen(expected));
    assert_int_equal(message->body_size, body.len);
    if (body.len > 0)
        assert_memory_equal(body.data, expected, body.len);
    bytes_free(&body);
}

static void empty_body_is_complete_with_the_header(void **state)
{
    (void)state;
    struct wire w;
    wire_init(&w);
    begin(&w);
    assert_int_equal(w.content.state, CONTENT_HEADER);
    assert_int_equal(feed_header(&w, 0), CONTENT_COMPLETE);
    assert_int_equal(w.content.state, CONTENT_IDLE);
    assert_int_equal(w.content.message.body_count, 0);
    assert_int_equal(w.content.message.header.len, 14);
    wire_deinit(&w);
}

static void one_frame_takes_no_memory(void **state)
{
    (void)state;
    struct wire w;
    wire_init(&w);
    begin(&w);
    assert_int_equal(feed_header(&w, 5), CONTENT_MORE);
    assert_int_equal(w.content.state, CONTENT_BODY);
    assert_int_equal(feed(&w, FRAME_BODY, "hello", 5), CONTENT_COMPLETE);
    assert_ptr_equal(w.content.message.body, &w.content.message.body_one);
    assert_body(&w.content.message, "hello");
    struct message moved;
    message_move(&moved, &w.content.message);
    assert_ptr_equal(moved.body, &moved.body_one);
    assert_body(&moved, "hello");
    begin(&w); /* the next message, before the first is gone */
    assert_int_equal(feed_header(&w, 0), CONTENT_COMPLETE);
    message_clear(&moved);
    wire_deinit(&w);
}

static void empty_frames_are_not_kept(void **state)
{
    (void)state;
    struct wire w;
    wire_init(&w);
    begin(&w);
    assert_int_equal(feed_header(&w, 2), CONTENT_MORE);
    for (unsigned i = 0; i < 5000; i++)
        assert_int_equal(feed(&w, FRAME_BODY, "", 0), CONTENT_MORE);
    assert_int_equal(w.content.message.body_count, 0);
    assert_int_equal(feed(&w, FRAME_BODY, "ok", 2), CONTENT_COMPLETE);
    assert_body(&w.content.message, "ok");
    wire_deinit(&w);
}

static void tiny_frames_are_gathered(void **state)
{
    (void)state;
    struct wire w;
    wire_init(&w);
    begin(&w);
    struct bytes b = {0};
    put_header(&b, 60, 0, 20000, 0);
    struct frame frame = lay_frame(&w, FRAME_HEADER, b.data, (uint32_t)b.len);
    assert_int_equal(content_feed(&w.content, w.slab, &frame, 20000), CONTENT_MORE);
    for (unsigned i = 0; i < 20000; i++) {
        uint8_t byte = (uint8_t)(i * 7);
        frame = lay_frame(&w, FRAME_BODY, &byte, 1);
        assert_int_equal(content_feed(&w.content, w.slab, &frame, 20000),
                         i < 19999 ? CONTENT_MORE : CONTENT_COMPLETE);
    }
    const struct message *message = &w.content.message;
    assert_int_equal(message->body_count, 5); /* 4 of 4088 bytes and the rest */
    assert_int_equal(w.slab->refs, 3);        /* the test's, of the method and of the header */
    unsigned at = 0;
    for (uint32_t i = 0; i < message->body_count; i++) {
        /* Each is a whole frame again. */
        const struct span *span = &message->body[i];
        size_t need;
        assert_int_equal(frame_scan(span->at - FRAME_HEAD_BYTES, span->len + FRAME_OVERHEAD_BYTES,
                                    FRAME_MIN_SIZE, &frame, &need),
                         FRAME_COMPLETE);
        assert_int_equal(frame.payload_len, span->len);
        assert_int_equal(frame.channel, 5);
        for (size_t k = 0; k < span->len; k++, at++)
            assert_int_equal(span->at[k], (uint8_t)(at * 7));
    }
    assert_int_equal(at, 20000);
    bytes_free(&b);
    wire_deinit(&w);
}

/* More small frames than one slab holds: each slab goes with the message. */
static void slabs_of_tiny_frames_are_given_back(void **state)
{
    (void)state;
    enum { BODY = 2 * SLAB_BYTES, PIECE = 100 };
    static const char piece[PIECE];
    size_t before = slab_live_bytes();
    struct wire w;
    wire_init(&w);
    begin(&w);
    struct bytes b = {0};
    put_header(&b, 60, 0, BODY, 0);
    struct frame frame = lay_frame(&w, FRAME_HEADER, b.data, (uint32_t)b.len);
    assert_int_equal(content_feed(&w.content, w.slab, &frame, BODY), CONTENT_MORE);
    frame = lay_frame(&w, FRAME_BODY, piece, PIECE);
    for (unsigned i = 0; i < BODY / PIECE; i++)
        assert_int_equal(content_feed(&w.content, w.slab, &frame, BODY), CONTENT_MORE);
    assert_true(slab_live_bytes() > before + 2 * SLAB_BYTES);
    bytes_free(&b);
    wire_deinit(&w);
    assert_int_equal(slab_live_bytes(), before);
}

static void limit_is_checked_at_the_header(void **state)
{
    (void)state;
    struct wire w;
    wire_init(&w);
    begin(&w);
    assert_int_equal(feed_header(&w, 1000), CONTENT_MORE);
    content_deinit(&w.content);
    content_init(&w.content);
    begin(&w);
    assert_int_equal(feed_header(&w, 1001), CONTENT_TOO_LARGE);
    begin(&w);
    assert_int_equal(feed_header(&w, UINT64_MAX), CONTENT_TOO_LARGE);
    assert_int_equal(w.content.state, CONTENT_IDLE);
    assert_int_equal(w.slab->refs, 1);
    wire_deinit(&w);
}

static void assert_refused(struct wire *w, enum content_result result, enum content_result expected)
{
    assert_int_equal(result, expected);
    assert_int_equal(w->content.state, CONTENT_IDLE);
    assert_null(w->content.message.method.slab);
    assert_int_equal(w->slab->refs, 1);
}

static void frames_out_of_place(void **state)
{
    (void)state;
    struct wire w;
    wire_init(&w);
    assert_refused(&w, feed_header(&w, 0), CONTENT_UNEXPECTED_FRAME);
    assert_refused(&w, feed(&w, FRAME_BODY, "x", 1), CONTENT_UNEXPECTED_FRAME);
    begin(&w);
    assert_refused(&w, feed(&w, FRAME_BODY, "x", 1), CONTENT_UNEXPECTED_FRAME);
    begin(&w);
    assert_refused(&w, feed(&w, FRAME_METHOD, "x", 1), CONTENT_UNEXPECTED_FRAME);
    begin(&w);
    assert_int_equal(feed_header(&w, 2), CONTENT_MORE);
    assert_refused(&w, feed_header(&w, 2), CONTENT_UNEXPECTED_FRAME);
    begin(&w);
    assert_int_equal(feed_header(&w, 2), CONTENT_MORE);
    assert_int_equal(feed(&w, FRAME_BODY, "x", 1), CONTENT_MORE);
    assert_refused(&w, feed(&w, FRAME_METHOD, "x", 1), CONTENT_UNEXPECTED_FRAME);
    wire_deinit(&w);
}

static void more_body_than_announced(void **state)
{
    (void)state;
    struct wire w;
    wire_init(&w);
    begin(&w);
    assert_int_equal(feed_header(&w, 3), CONTENT_MORE);
    assert_refused(&w, feed(&w, FRAME_BODY, "four", 4), CONTENT_BODY_TOO_LONG);
    begin(&w);
    assert_int_equal(feed_header(&w, 3), CONTENT_MORE);
    assert_int_equal(feed(&w, FRAME_BODY, "ab", 2), CONTENT_MORE);
    assert_refused(&w, feed(&w, FRAME_BODY, "cd", 2), CONTENT_BODY_TOO_LONG);
    wire_deinit(&w);
}

static void bad_headers_reset_the_content(void **state)
{
    (void)state;
    struct wire w;
    struct bytes b = {0};
    wire_init(&w);
    put_header(&b, 10, 0, 0, 0);
    begin(&w);
    assert_refused(&w, feed(&w, FRAME_HEADER, b.data, b.len), CONTENT_WRONG_CLASS);
    b.len = 0;
    put_header(&b, 60, 0, 0, AMQP_BASIC_TIMESTAMP_FLAG);
    begin(&w);
    assert_refused(&w, feed(&w, FRAME_HEADER, b.data, b.len), CONTENT_MALFORMED);
    begin(&w);
    assert_refused(&w, feed(&w, FRAME_HEADER, "", 0), CONTENT_MALFORMED);
    bytes_free(&b);
    wire_deinit(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(body_size_is_read),
        cmocka_unit_test(class_and_weight),
        cmocka_unit_test(all_properties_and_each_truncation),
        cmocka_unit_test(unused_flags_are_refused),
        cmocka_unit_test(each_flag_is_its_own_property),
        cmocka_unit_test(field_types_and_their_widths),
        cmocka_unit_test(lengths_within_tables),
        cmocka_unit_test(floats_are_finite),
        cmocka_unit_test(nesting_is_limited),
        cmocka_unit_test(damaged_headers),
        cmocka_unit_test(empty_body_is_complete_with_the_header),
        cmocka_unit_test(one_frame_takes_no_memory),
        cmocka_unit_test(empty_frames_are_not_kept),
        cmocka_unit_test(tiny_frames_are_gathered),
        cmocka_unit_test(slabs_of_tiny_frames_are_given_back),
        cmocka_unit_test(limit_is_checked_at_the_header),
        cmocka_unit_test(frames_out_of_place),
        cmocka_unit_test(more_body_than_announced),
        cmocka_unit_test(bad_headers_reset_the_content),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
