/* The accumulator of publishes: a message that comes in many small body frames, each in a slab of
 * its own, is the message that came in one go; and what is framed again is still that message.
 *
 * Input: the size of the small frames (1 byte), frame_max (1 byte), then frames: kind (1 byte),
 * length of the payload (2 bytes), payload. A header of the second kind is given the size of the
 * body that follows it. */

#include <sys/uio.h>

#include "../support/bytes.h"
#include "amqp/content.h"
#include "fuzz.h"

enum { KIND_HEADER, KIND_SIZED_HEADER, KIND_BODY, KIND_METHOD, KINDS, BODY_MAX = 1 << 20 };

static const uint8_t method[] = "method";

struct unit {
    unsigned kind;
    const uint8_t *payload;
    size_t len;
};

static bool next_unit(struct input *in, struct unit *unit)
{
    if (in->left == 0)
        return false;
    unit->kind = input_octet(in) % KINDS;
    unit->payload = input_take(in, (size_t)input_number(in, 2), &unit->len);
    return true;
}

static uint64_t body_ahead(struct input in)
{
    uint64_t size = 0;
    struct unit unit;
    while (next_unit(&in, &unit) && unit.kind == KIND_BODY)
        size += unit.len;
    return size;
}

static void put_unit(struct bytes *b, const struct unit *unit, struct input rest)
{
    static const uint8_t types[] = {FRAME_HEADER, FRAME_HEADER, FRAME_BODY, FRAME_METHOD};
    put_frame(b, types[unit->kind], 1, unit->payload, unit->len);
    if (unit->kind == KIND_SIZED_HEADER && unit->len >= 12)
        wire_put64(b->data + b->len - unit->len - 1 + 4, body_ahead(rest));
}

/* The input as frames; body frames longer than `cut` as several. */
static struct bytes frames_of(struct input in, size_t cut)
{
    struct bytes b = {0};
    struct unit unit;
    put_frame(&b, FRAME_METHOD, 1, method, sizeof method);
    while (next_unit(&in, &unit)) {
        struct unit piece = unit;
        do {
            if (unit.kind == KIND_BODY)
                piece.len = unit.len < cut ? unit.len : cut;
            put_unit(&b, &piece, in);
            piece.payload += piece.len;
            unit.len -= piece.len;
        } while (unit.len > 0);
    }
    return b;
}

/* Feeds frames up to the end of a message; with `apart`, each from a slab of its own. */
static enum content_result feed(struct content *content, const struct bytes *b, bool apart)
{
    struct slab *slab = NULL;
    enum content_result result = CONTENT_MORE;
    for (size_t at = 0; at < b->len && result == CONTENT_MORE;) {
        size_t size = FRAME_OVERHEAD_BYTES + (size_t)wire_get32(b->data + at + 3);
        if (!slab || apart) {
            if (slab)
                slab_unref(slab);
            slab = slab_new(apart ? size : b->len);
            ENSURE(slab);
            memcpy(slab->data, b->data + at, apart ? size : b->len);
        }
        struct frame frame;
        size_t need;
        ENSURE(frame_scan(slab->data + (apart ? 0 : at), size, 0, &frame, &need) == FRAME_COMPLETE);
        if (at == 0)
            content_begin(content, slab, &frame);
        else
            result = content_feed(content, slab, &frame, BODY_MAX);
        at += size;
    }
    slab_unref(slab);
    return result;
}

static void put_body(struct bytes *b, const struct message *message)
{
    for (uint32_t i = 0; i < message->body_count; i++)
        put_bytes(b, message->body[i].at, message->body[i].len);
    ENSURE(b->len == message->body_size);
}

static void check_same(const struct message *a, const struct message *b)
{
    struct bytes a_body = {0}, b_body = {0};
    put_body(&a_body, a);
    put_body(&b_body, b);
    ENSURE(bytes_equal(a->method.at, a->method.len, b->method.at, b->method.len));
    ENSURE(bytes_equal(a->header.at, a->header.len, b->header.at, b->header.len));
    ENSURE(bytes_equal(a_body.data, a_body.len, b_body.data, b_body.len));
    bytes_free(&a_body);
    bytes_free(&b_body);
}

static void emit(void *arg, struct slab *slab, uint8_t *at, size_t len)
{
    ENSURE(at >= slab->data && len <= slab->capacity - (size_t)(at - slab->data));
    put_bytes(arg, at, len);
}

/* The bytes are whole frames within frame_max, on the channel, and the same message. */
static void check_framed(const struct message *message, const struct bytes *b, uint16_t channel,
                         uint32_t frame_max)
{
    struct frame frame;
    size_t need;
    for (size_t at = 0; at < b->len; at += frame.payload_len + FRAME_OVERHEAD_BYTES) {
        ENSURE(frame_scan(b->data + at, b->len - at, frame_max, &frame, &need) == FRAME_COMPLETE);
        ENSURE(frame.channel == channel);
    }
    struct content content;
    content_init(&content);
    ENSURE(feed(&content, b, false) == CONTENT_COMPLETE);
    check_same(message, &content.message);
    content_deinit(&content);
}

static void check_frame_and_write(struct message *message, uint16_t channel, uint32_t frame_max)
{
    struct bytes framed = {0};
    bool fits = message_frame(message, channel, frame_max, emit, &framed);
    if (fits)
        check_framed(message, &framed, channel, frame_max);
    ENSURE(fits || framed.len == 0);
    bytes_free(&framed);

    size_t count = message_body_iov(message, NULL, 0);
    struct iovec *body = calloc(count + 1, sizeof *body);
    ENSURE(body && message_body_iov(message, body, count) == count);
    struct iovec method_iov = {message->method.at, message->method.len};
    struct iovec header_iov = {message->header.at, message->header.len};
    size_t size = message_framed_size(message->method.len, message->header.len, message->body_size,
                                      frame_max);
    struct bytes out = {0};
    bytes_grow(&out, size);
    size_t wrote =
        message_write(out.data, channel, frame_max, &method_iov, &header_iov, body, count);
    ENSURE(wrote == (fits ? size : 0));
    if (fits)
        check_framed(message, &out, channel, frame_max);
    bytes_free(&out);
    free(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    /* Every small frame costs a slab: no more of them than the input can be looked at quickly. */
    size_t cut = (size_t)input_octet(&in) + 1 + size / 64;
    uint8_t limit = input_octet(&in);
    uint32_t frame_max = limit == 0 ? 0 : FRAME_MIN_SIZE + limit - 1;
    struct content whole, pieces;
    content_init(&whole);
    content_init(&pieces);
    struct bytes b = frames_of(in, SIZE_MAX), small = frames_of(in, cut);
    enum content_result result = feed(&whole, &b, false);
    enum content_result result_apart = feed(&pieces, &small, true);
    /* A body that is too long may be complete before its last small frame. */
    if (result != CONTENT_BODY_TOO_LONG)
        ENSURE(result_apart == result);
    if (result == CONTENT_COMPLETE) {
        check_same(&whole.message, &pieces.message);
        check_frame_and_write(&whole.message, 3, frame_max);
        check_frame_and_write(&pieces.message, 0xFFFF, frame_max);
        check_same(&whole.message, &pieces.message);
    }
    content_deinit(&whole);
    content_deinit(&pieces);
    bytes_free(&b);
    bytes_free(&small);
    return 0;
}
