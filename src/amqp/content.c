#include "amqp/content.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "amqp/wire.h"
#include "base/assert.h"

enum {
    CLASS_BASIC = 60,
    HEADER_FIXED_BYTES = 14, /* class, weight, body size, property flags */
    FLAGS_UNUSED = 3,
    /* Every peer takes a frame of this size, so small body frames may grow to it. */
    GATHERED_MAX = FRAME_MIN_SIZE - FRAME_OVERHEAD_BYTES,
    SPANS_FIRST = 8,
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
    struct cursor c = {.at = payload, .end = payload + len};
    uint16_t class_id = cursor_u16(&c);
    uint16_t weight = cursor_u16(&c);
    if (class_id != CLASS_BASIC || weight != 0)
        return CONTENT_WRONG_CLASS;
    uint64_t announced = cursor_u64(&c);
    uint32_t flags = cursor_u16(&c);
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
    content->state = CONTENT_IDLE;
    content->body_missing = 0;
    message_init(&content->message);
}

void content_deinit(struct content *content)
{
    message_clear(&content->message);
    content->state = CONTENT_IDLE;
}

void content_begin(struct content *content, struct slab *slab, const struct frame *frame)
{
    ENSURE(content->state == CONTENT_IDLE && frame->type == FRAME_METHOD);
    message_clear(&content->message);
    content->message.method = span_of(slab, frame->payload, frame->payload_len);
    content->state = CONTENT_HEADER;
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
    content->state = CONTENT_BODY;
    return content->body_missing == 0 ? CONTENT_COMPLETE : CONTENT_MORE;
}

/* Moves a small payload to the end of the span before it, whose frame grows by it. Only if nothing
 * lies between them: it would be another channel's frame, or another client's. */
static bool gather(struct span *last, const struct slab *slab, const struct frame *frame,
                   const uint8_t *next)
{
    if (last->slab != slab || frame->payload - FRAME_HEAD_BYTES != next ||
        last->len + frame->payload_len > GATHERED_MAX)
        return false;
    ENSURE(frame->payload > last->at + last->len);
    memmove(last->at + last->len, frame->payload, frame->payload_len);
    last->len += frame->payload_len;
    frame_wrap(last->at - FRAME_HEAD_BYTES, FRAME_BODY, frame->channel, (uint32_t)last->len);
    return true;
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

static bool add_body(struct content *content, struct slab *slab, const struct frame *frame)
{
    struct message *message = &content->message;
    const uint8_t *next = content->next;
    content->next = frame->payload + frame->payload_len + 1; /* behind the end octet */
    if (message->body_count > 0 &&
        gather(&message->body[message->body_count - 1], slab, frame, next))
        return true;
    if (message->body_count == message->body_capacity && !grow_spans(message))
        return false;
    message->body[message->body_count++] = span_of(slab, frame->payload, frame->payload_len);
    return true;
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
    enum content_result result = CONTENT_UNEXPECTED_FRAME;
    if (content->state == CONTENT_HEADER)
        result = take_header(content, slab, frame, max_body_size);
    else if (content->state == CONTENT_BODY)
        result = take_body(content, slab, frame);
    if (result == CONTENT_MORE)
        return result;
    content->state = CONTENT_IDLE;
    if (result != CONTENT_COMPLETE)
        message_clear(&content->message);
    return result;
}
