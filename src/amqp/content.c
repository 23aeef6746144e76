#include "amqp/content.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "amqp/wire.h"
#include "base/assert.h"
#include "base/states.h"

static const struct states states = {
    .object = "content",
    .names = {[CONTENT_IDLE] = "idle", [CONTENT_HEADER] = "header", [CONTENT_BODY] = "body"},
    .next = {[CONTENT_IDLE] = TO(CONTENT_HEADER),
             [CONTENT_HEADER] = TO(CONTENT_BODY) | TO(CONTENT_IDLE),
             [CONTENT_BODY] = TO(CONTENT_IDLE)},
};

static inline void content_move(struct content *content, enum content_state to)
{
    STATE_MOVE(&states, content->state, to);
}

enum {
    CLASS_BASIC = 60,
    HEADER_FIXED_BYTES = 14, /* class, weight, body size, property flags */
    FLAGS_UNUSED = 3,
    /* Every peer takes a frame of this size, so small pieces of a body may grow to it. */
    GATHERED_MAX = FRAME_MIN_SIZE - FRAME_OVERHEAD_BYTES,
    SPANS_FIRST = 8,
    /* A piece of a body that is smaller than that is copied: the slab that it was read into is
     * larger by far, and the message may stay unfinished for long. */
    SMALL_PIECE_BYTES = 32 * 1024,
};

/* Fields by their width, from the highest flag down: content-type, content-encoding, headers,
 * delivery-mode, priority, correlation-id, reply-to, expiration, message-id, timestamp, type,
 * user-id, app-id, cluster-id. */
static const char property_fields[] = "ssF11ssss8ssss";

static void skip_property(struct cursor *c, char field)
{
    switch (field) {
    case 's':
        cursor_skip_short_string(c);
        break;
    case 'F':
        cursor_skip_table(c);
        break;
    default:
        cursor_take(c, (size_t)(field - '0'));
    }
}

enum content_result header_check(const uint8_t *payload, size_t len, uint64_t *body_size)
{
    if (len < HEADER_FIXED_BYTES)
        return CONTENT_MALFORMED;
    struct cursor c = {.at = payload + HEADER_FIXED_BYTES, .end = payload + len};
    if (wire_get16(payload) != CLASS_BASIC || wire_get16(payload + 2) != 0)
        return CONTENT_WRONG_CLASS;
    uint64_t announced = wire_get64(payload + 4);
    uint32_t flags = wire_get16(payload + 12);
    if (flags & FLAGS_UNUSED)
        return CONTENT_MALFORMED;
    for (const char *field = property_fields; flags != 0; field++) {
        if (flags & 0x8000)
            skip_property(&c, *field);
        flags = flags << 1 & 0xFFFF;
    }
    if (c.failed || c.at != c.end)
        return CONTENT_MALFORMED;
    *body_size = announced;
    return CONTENT_MORE;
}

void content_init(struct content *content)
{
    content->state = CONTENT_IDLE; /* a new one */
    content->body_missing = 0;
    content->gathering = NULL;
    message_init(&content->message);
}

static void end_gathering(struct content *content)
{
    if (content->gathering)
        slab_unref(content->gathering);
    content->gathering = NULL;
}

void content_deinit(struct content *content)
{
    end_gathering(content);
    message_clear(&content->message);
    if (content->state != CONTENT_IDLE)
        content_move(content, CONTENT_IDLE);
}

void content_begin(struct content *content, struct slab *slab, const struct frame *frame)
{
    ENSURE(content->state == CONTENT_IDLE && frame->type == FRAME_METHOD);
    ENSURE(!content->message.method.slab);
    content->message.method = span_of(slab, frame->payload, frame->payload_len);
    content_move(content, CONTENT_HEADER);
}

static enum content_result take_header(struct content *content, struct slab *slab,
                                       const struct frame *frame, uint64_t max_body_size)
{
    if (frame->type != FRAME_HEADER)
        return CONTENT_UNEXPECTED_FRAME;
    struct message *message = &content->message;
    enum content_result checked =
        header_check(frame->payload, frame->payload_len, &message->body_size);
    if (checked != CONTENT_MORE)
        return checked;
    if (message->body_size > max_body_size)
        return CONTENT_TOO_LARGE;
    message->header = span_of(slab, frame->payload, frame->payload_len);
    content->body_missing = message->body_size;
    content_move(content, CONTENT_BODY);
    return content->body_missing == 0 ? CONTENT_COMPLETE : CONTENT_MORE;
}

static bool grow_spans(struct message *message)
{
    if (message->body_capacity > UINT32_MAX / 2)
        return false;
    bool first = message->body == &message->body_one;
    uint32_t capacity = first ? SPANS_FIRST : message->body_capacity * 2;
    ENSURE(capacity > 0);
    struct span *spans = realloc(first ? NULL : message->body, capacity * sizeof *spans);
    if (!spans)
        return false;
    if (first)
        spans[0] = message->body_one;
    message->body = spans;
    message->body_capacity = capacity;
    return true;
}

static struct span *add_span(struct message *message, struct slab *slab, uint8_t *at, size_t len)
{
    if (message->body_count == message->body_capacity && !grow_spans(message))
        return NULL;
    ENSURE(message->body);
    struct span *span = &message->body[message->body_count++];
    *span = span_of(slab, at, len);
    return span;
}

/* Room for `len` bytes in the slab of the content's own: as much as the rest of the body may need,
 * up to an ordinary slab. */
static bool has_room(struct content *content, size_t len)
{
    struct slab *slab = content->gathering;
    if (slab && slab->capacity - slab->used >= len)
        return true;
    uint64_t capacity = content->body_missing + content->body_missing / 64 + FRAME_OVERHEAD_BYTES;
    slab = slab_new(capacity < SLAB_BYTES ? (size_t)capacity : SLAB_BYTES);
    if (!slab)
        return false;
    if (content->gathering)
        slab_unref(content->gathering);
    content->gathering = slab;
    return true;
}

/* Copies a small payload behind the one before it, as one frame up to GATHERED_MAX. */
static bool gather(struct content *content, const struct frame *frame)
{
    struct message *message = &content->message;
    if (!has_room(content, frame->payload_len + FRAME_OVERHEAD_BYTES))
        return false;
    struct slab *slab = content->gathering;
    struct span *span = message->body_count ? &message->body[message->body_count - 1] : NULL;
    if (!span || span->slab != slab || span->len + frame->payload_len > GATHERED_MAX)
        span = add_span(message, slab, slab->data + slab->used + FRAME_HEAD_BYTES, 0);
    if (!span)
        return false;
    memcpy(span->at + span->len, frame->payload, frame->payload_len); /* over its end octet */
    span->len += frame->payload_len;
    uint8_t *whole = span->at - FRAME_HEAD_BYTES;
    size_t size = frame_wrap(whole, FRAME_BODY, frame->channel, (uint32_t)span->len);
    slab->used = (size_t)(whole - slab->data) + size;
    return true;
}

static bool add_body(struct content *content, struct slab *slab, const struct frame *frame)
{
    if (frame->payload_len < SMALL_PIECE_BYTES && frame->payload_len < content->message.body_size)
        return gather(content, frame);
    return add_span(&content->message, slab, frame->payload, frame->payload_len) != NULL;
}

static enum content_result take_body(struct content *content, struct slab *slab,
                                     const struct frame *frame)
{
    if (frame->type != FRAME_BODY)
        return CONTENT_UNEXPECTED_FRAME;
    if (frame->payload_len > content->body_missing)
        return CONTENT_BODY_TOO_LONG;
    /* A peer may send empty frames without end; nothing is kept of them. */
    if (frame->payload_len > 0 && !add_body(content, slab, frame))
        return CONTENT_NO_MEMORY;
    content->body_missing -= frame->payload_len;
    return content->body_missing == 0 ? CONTENT_COMPLETE : CONTENT_MORE;
}

enum content_result content_feed(struct content *content, struct slab *slab,
                                 const struct frame *frame, uint64_t max_body_size)
{
    if (content->state == CONTENT_IDLE)
        return CONTENT_UNEXPECTED_FRAME;
    enum content_result result = content->state == CONTENT_HEADER
                                     ? take_header(content, slab, frame, max_body_size)
                                     : take_body(content, slab, frame);
    if (result == CONTENT_MORE)
        return result;
    content_move(content, CONTENT_IDLE);
    end_gathering(content);
    if (result != CONTENT_COMPLETE)
        message_clear(&content->message);
    return result;
}
