#include "session/alike.h"

#include <string.h>

#include "amqp/frame.h"
#include "amqp/wire.h"
#include "peer/runtime.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/relay.h"
#include "session/router.h"

enum { BODY_SIZE_AT = 4, FLAGS_AT = 12 }; /* in a content header payload */

/* What they have in common, and how large their bodies may be. */
struct kind {
    uint16_t channel;
    const uint8_t *method, *header; /* payloads of the one before */
    uint32_t method_len, header_len;
    uint64_t body_max;
};

static bool is_frame(const uint8_t *at, uint8_t type, uint16_t channel, uint32_t payload_len)
{
    return at[0] == type && wire_get16(at + 1) == channel && wire_get32(at + 3) == payload_len;
}

/* The end octet of the one before stands behind its payload as well. */
static bool is_same(const uint8_t *frame, const uint8_t *payload, uint32_t from, uint32_t len)
{
    return memcmp(frame + FRAME_HEAD_BYTES + from, payload + from, len + 1 - from) == 0;
}

/* Bytes of the publish that begins at `at`, or 0; *body_size is that of its body. */
static size_t measure(const struct kind *kind, const uint8_t *at, size_t len, uint64_t *body_size)
{
    size_t header_at = kind->method_len + FRAME_OVERHEAD_BYTES;
    size_t body_at = header_at + kind->header_len + FRAME_OVERHEAD_BYTES;
    if (len < body_at)
        return 0;
    const uint8_t *header = at + header_at, *body = at + body_at;
    if (!is_frame(at, FRAME_METHOD, kind->channel, kind->method_len) ||
        !is_same(at, kind->method, 0, kind->method_len) ||
        !is_frame(header, FRAME_HEADER, kind->channel, kind->header_len) ||
        !is_same(header, kind->header, FLAGS_AT, kind->header_len) ||
        memcmp(header + FRAME_HEAD_BYTES, kind->header, BODY_SIZE_AT) != 0)
        return 0;
    *body_size = wire_get64(header + FRAME_HEAD_BYTES + BODY_SIZE_AT);
    if (*body_size == 0)
        return body_at;
    if (*body_size > kind->body_max || len - body_at < *body_size + FRAME_OVERHEAD_BYTES ||
        !is_frame(body, FRAME_BODY, kind->channel, (uint32_t)*body_size) ||
        body[FRAME_HEAD_BYTES + *body_size] != FRAME_END)
        return 0;
    return body_at + *body_size + FRAME_OVERHEAD_BYTES;
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

/* Those on their way go with the slab in which the one before lies: it is retained. */
static bool find_kind(const struct client *c, const struct channel *ch, struct kind *kind)
{
    const struct retained *last = ch->relay ? unconfirmed_last(&ch->relay->unconfirmed) : NULL;
    if (!last || !last->slab)
        return false;
    struct message view;
    const struct message *before = retained_look(last, &view);
    *kind = (struct kind){
        .channel = ch->number,
        .method = before->method.at,
        .method_len = (uint32_t)before->method.len,
        .header = before->header.at,
        .header_len = (uint32_t)before->header.len,
        .body_max = largest_body(c, ch->relay),
    };
    return true;
}

static size_t take_run(struct channel *ch, const struct kind *kind, struct slab *slab,
                       uint8_t *data, size_t len)
{
    struct relay *r = ch->relay;
    uint64_t bytes_max, body_size, bytes = 0;
    uint64_t head = (uint64_t)kind->method_len + kind->header_len;
    uint32_t count = 0, most = router_room_alike(ch, &bytes_max);
    size_t taken = 0, size;
    while (count < most && (size = measure(kind, data + taken, len - taken, &body_size)) > 0 &&
           bytes + head + body_size <= bytes_max) {
        relay_follow(r, slab, data + taken, (uint32_t)(head + body_size));
        bytes += head + body_size;
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
    uint64_t body_size;
    struct kind kind;
    if (!ch || ch->state != CHANNEL_OPEN || ch->content.state != CONTENT_IDLE ||
        !find_kind(c, ch, &kind) || measure(&kind, data, len, &body_size) == 0)
        return 0;
    return take_run(ch, &kind, slab, data, len);
}
