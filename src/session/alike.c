#include "session/alike.h"

#include <stdbool.h>
#include <string.h>

#include "amqp/frame.h"
#include "amqp/wire.h"
#include "peer/runtime.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/relay.h"
#include "session/router.h"

enum {
    LENGTH_AT = 3,    /* in a frame */
    BODY_SIZE_AT = 4, /* in a content header payload */
    START_MAX = 512,
};

/* What they have in common: the bytes that each begins with, up to its body. */
struct kind {
    uint16_t channel;
    uint8_t start[START_MAX + FRAME_HEAD_BYTES]; /* frames of method and content header, and the
                                                    head of the body's, if there is one */
    size_t frames_len, start_len;                /* without that head, and with it */
    size_t size_at;                              /* where the body's size stands */
    uint64_t body_size, body_max;
    size_t whole_len; /* of one publish */
};

/* The next ones may have bodies of another size. */
static void set_body_size(struct kind *kind, uint64_t size)
{
    bool has_body = size > 0;
    kind->body_size = size;
    wire_put64(kind->start + kind->size_at, size);
    frame_put_head(kind->start + kind->frames_len, FRAME_BODY, kind->channel, (uint32_t)size);
    kind->start_len = kind->frames_len + (has_body ? FRAME_HEAD_BYTES : 0);
    kind->whole_len = kind->frames_len + (has_body ? size + FRAME_OVERHEAD_BYTES : 0);
}

static bool is_alike(const struct kind *kind, const uint8_t *at, size_t len)
{
    return len >= kind->whole_len && memcmp(at, kind->start, kind->start_len) == 0 &&
           at[kind->whole_len - 1] == FRAME_END;
}

/* Bytes of the publish that begins at `at`, or 0. The bodies of most streams have one size: then
 * one comparison tells. */
static size_t measure(struct kind *kind, const uint8_t *at, size_t len)
{
    if (is_alike(kind, at, len))
        return kind->whole_len;
    if (len < kind->frames_len)
        return 0;
    uint64_t size = wire_get64(at + kind->size_at);
    if (size == kind->body_size || size > kind->body_max)
        return 0;
    set_body_size(kind, size);
    return is_alike(kind, at, len) ? kind->whole_len : 0;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Larger bodies are cut on their way to RabbitMQ, or refused. */
static uint64_t largest_body(const struct client *c, const struct relay *r)
{
    uint64_t max = smaller(c->rt->config->spool.max_message_size_bytes, UINT32_MAX);
    uint32_t theirs = r->link.upstream->frame_max;
    if (c->frame_max > 0)
        max = smaller(max, c->frame_max);
    return theirs > 0 ? smaller(max, theirs - FRAME_OVERHEAD_BYTES) : max;
}

/* It goes to where that one goes, which is retained as it came. Most that are not alike differ
 * here. */
static bool has_same_method(const struct retained *last, const uint8_t *data, size_t len)
{
    size_t method_len = wire_get32(data + LENGTH_AT);
    return method_len == wire_get32(last->at + LENGTH_AT) && len - FRAME_HEAD_BYTES >= method_len &&
           memcmp(data + FRAME_HEAD_BYTES, last->at + FRAME_HEAD_BYTES, method_len) == 0;
}

/* As the one before came from the client. */
static bool find_kind(const struct client *c, const struct channel *ch, struct kind *kind,
                      const uint8_t *data, size_t len)
{
    const struct retained *last = ch->relay ? unconfirmed_last(&ch->relay->unconfirmed) : NULL;
    if (!last || !last->slab || !has_same_method(last, data, len))
        return false;
    struct message view;
    const struct message *before = retained_look(last, &view);
    kind->frames_len = before->method.len + before->header.len + 2 * FRAME_OVERHEAD_BYTES;
    if (kind->frames_len > START_MAX)
        return false;
    memcpy(kind->start, last->at, kind->frames_len);
    uint8_t *method = kind->start + FRAME_HEAD_BYTES;
    uint8_t *header = method + before->method.len + FRAME_OVERHEAD_BYTES;
    frame_set_channel(method, ch->number);
    frame_set_channel(header, ch->number);
    kind->size_at = (size_t)(header - kind->start) + BODY_SIZE_AT;
    kind->channel = ch->number;
    kind->body_max = largest_body(c, ch->relay);
    set_body_size(kind, 0);
    return true;
}

/* Of a publish that was measured: its frames are those of that channel now. */
static void set_channel(const struct kind *kind, uint8_t *at, uint16_t channel)
{
    frame_set_channel(at + FRAME_HEAD_BYTES, channel);
    frame_set_channel(at + kind->size_at - BODY_SIZE_AT, channel);
    if (kind->body_size > 0)
        frame_set_channel(at + kind->start_len, channel);
}

static size_t take_run(struct channel *ch, struct kind *kind, struct slab *slab, uint8_t *data,
                       size_t len)
{
    struct relay *r = ch->relay;
    uint64_t bytes_max, bytes = 0;
    uint64_t head = kind->frames_len - 2 * FRAME_OVERHEAD_BYTES;
    uint32_t count = 0, most = router_room_alike(ch, &bytes_max);
    size_t taken = 0, size;
    while (count < most && (size = measure(kind, data + taken, len - taken)) > 0 &&
           bytes + head + kind->body_size <= bytes_max) {
        set_channel(kind, data + taken, r->link.channel);
        relay_follow(r, slab, data + taken, (uint32_t)(head + kind->body_size));
        bytes += head + kind->body_size;
        taken += size;
        count++;
    }
    if (count > 0)
        relay_send_run(r, slab, data, taken, count, bytes);
    return taken;
}

size_t alike_take(struct client *c, struct slab *slab, uint8_t *data, size_t len)
{
    if (len < FRAME_HEAD_BYTES || data[0] != FRAME_METHOD)
        return 0;
    struct channel *ch = client_channel(c, wire_get16(data + 1));
    struct kind kind;
    if (!ch || ch->state != CHANNEL_OPEN || ch->content.state != CONTENT_IDLE ||
        !find_kind(c, ch, &kind, data, len) || measure(&kind, data, len) == 0)
        return 0;
    return take_run(ch, &kind, slab, data, len);
}
