#include "session/alike.h"

#include <string.h>

#include "amqp/frame.h"
#include "amqp/wire.h"
#include "peer/runtime.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/relay.h"
#include "session/router.h"

enum {
    BODY_SIZE_AT = 4, /* in a content header payload */
    BODY_SIZE_BYTES = 8,
    START_MAX = 512,
};

/* What they have in common, and how large their bodies may be. */
struct kind {
    uint16_t channel;
    uint8_t start[START_MAX];  /* method and content header, as frames */
    size_t start_len, size_at; /* where the body's size stands in it */
    uint64_t body_max;
};

/* The bodies of most streams have one size: then one comparison tells. */
static bool begins_alike(const struct kind *kind, const uint8_t *at)
{
    size_t behind = kind->size_at + BODY_SIZE_BYTES;
    return memcmp(at, kind->start, kind->start_len) == 0 ||
           (memcmp(at, kind->start, kind->size_at) == 0 &&
            memcmp(at + behind, kind->start + behind, kind->start_len - behind) == 0);
}

/* Bytes of the publish that begins at `at`, or 0; *body_size is that of its body. */
static size_t measure(const struct kind *kind, const uint8_t *at, size_t len, uint64_t *body_size)
{
    if (len < kind->start_len || !begins_alike(kind, at))
        return 0;
    uint64_t size = *body_size = wire_get64(at + kind->size_at);
    if (size == 0)
        return kind->start_len;
    const uint8_t *body = at + kind->start_len;
    if (size > kind->body_max || len - kind->start_len < size + FRAME_OVERHEAD_BYTES ||
        body[0] != FRAME_BODY || wire_get16(body + 1) != kind->channel ||
        wire_get32(body + 3) != size || body[FRAME_HEAD_BYTES + size] != FRAME_END)
        return 0;
    return kind->start_len + size + FRAME_OVERHEAD_BYTES;
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

/* As the one before came from the client; that one is retained. */
static bool find_kind(const struct client *c, const struct channel *ch, struct kind *kind)
{
    const struct retained *last = ch->relay ? unconfirmed_last(&ch->relay->unconfirmed) : NULL;
    if (!last || !last->slab)
        return false;
    struct message view;
    const struct message *before = retained_look(last, &view);
    kind->start_len = before->method.len + before->header.len + 2 * FRAME_OVERHEAD_BYTES;
    if (kind->start_len > START_MAX)
        return false;
    memcpy(kind->start, last->at, kind->start_len);
    uint8_t *method = kind->start + FRAME_HEAD_BYTES;
    uint8_t *header = method + before->method.len + FRAME_OVERHEAD_BYTES;
    frame_set_channel(method, ch->number);
    frame_set_channel(header, ch->number);
    kind->size_at = (size_t)(header - kind->start) + BODY_SIZE_AT;
    kind->channel = ch->number;
    kind->body_max = largest_body(c, ch->relay);
    return true;
}

/* Of a publish that was measured: its frames are those of that channel now. */
static void set_channel(const struct kind *kind, uint8_t *at, uint64_t body_size, uint16_t channel)
{
    frame_set_channel(at + FRAME_HEAD_BYTES, channel);
    frame_set_channel(at + kind->size_at - BODY_SIZE_AT, channel);
    if (body_size > 0)
        frame_set_channel(at + kind->start_len + FRAME_HEAD_BYTES, channel);
}

static size_t take_run(struct channel *ch, const struct kind *kind, struct slab *slab,
                       uint8_t *data, size_t len)
{
    struct relay *r = ch->relay;
    uint64_t bytes_max, body_size, bytes = 0;
    uint64_t head = kind->start_len - 2 * FRAME_OVERHEAD_BYTES;
    uint32_t count = 0, most = router_room_alike(ch, &bytes_max);
    size_t taken = 0, size;
    while (count < most && (size = measure(kind, data + taken, len - taken, &body_size)) > 0 &&
           bytes + head + body_size <= bytes_max) {
        set_channel(kind, data + taken, body_size, r->link.channel);
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
