#include "drain/probe.h"

#include <stdlib.h>

#include "amqp/method.h"
#include "base/assert.h"
#include "base/handles.h"
#include "drain/backlog.h"
#include "peer/runtime.h"
#include "peer/send.h"
#include "upstream/upstream.h"

/* The other channel. */
struct other {
    struct link link;
    uint64_t probe, backlog; /* handles */
};

static void end(struct other *o)
{
    struct backlog *backlog = handles_get(o->backlog);
    if (backlog)
        backlog->probing--;
    upstream_detach(&o->link);
    free(o);
}

static void on_frame(struct link *link, struct slab *slab, const struct frame *frame)
{
    (void)slab;
    struct other *o = LIST_ENTRY(link, struct other, link);
    if (frame->type != FRAME_METHOD ||
        method_number(frame->payload, frame->payload_len) != AMQP_CHANNEL_CLOSE_OK_METHOD)
        return;
    struct probe *p = handles_get(o->probe);
    if (p && p->sent_ms > 0)
        p->answered_ms = runtime_now(link->upstream->rt);
    end(o);
}

static void on_lost(struct link *link)
{
    end(LIST_ENTRY(link, struct other, link));
}

static const struct link_handler handler = {.on_frame = on_frame, .on_lost = on_lost};

void probe_init(struct probe *p)
{
    *p = (struct probe){.handle = handles_add(p)};
}

void probe_deinit(struct probe *p)
{
    handles_remove(p->handle);
}

void probe_send(struct probe *p, struct backlog *backlog, const struct link *channel, uint64_t tag,
                uint64_t now_ms)
{
    struct upstream *u = channel->upstream;
    struct other *o = calloc(1, sizeof *o);
    ENSURE(o);
    o->link.handler = &handler;
    o->probe = p->handle;
    o->backlog = backlog->handle;
    backlog->probing++;
    ENSURE(upstream_attach(u, &o->link));
    amqp_channel_close_t close = {.reply_code = 200, .reply_text = bytes_of("well")};
    wire_send_plain(&u->stream, channel->channel, AMQP_CONFIRM_SELECT_METHOD);
    wire_send_plain(&u->stream, o->link.channel, AMQP_CHANNEL_OPEN_METHOD);
    wire_send(&u->stream, o->link.channel, AMQP_CHANNEL_CLOSE_METHOD, &close);
    p->sent_ms = now_ms;
    p->tag = tag;
    p->answered_ms = 0;
}

void probe_end(struct probe *p)
{
    p->sent_ms = p->tag = p->answered_ms = 0;
}

void probe_put_off(struct probe *p, uint64_t ms)
{
    if (p->sent_ms > 0 && ms > p->sent_ms)
        p->sent_ms = ms;
}

enum probe_finding probe_finding(const struct probe *p, uint32_t timeout_ms, uint32_t soon_ms,
                                 uint64_t now_ms)
{
    if (p->sent_ms == 0)
        return PROBE_NONE;
    if (p->answered_ms == 0)
        return now_ms - p->sent_ms >= timeout_ms ? PROBE_CONNECTION_IS_STUCK : PROBE_OPEN;
    return now_ms - p->answered_ms >= soon_ms ? PROBE_CHANNEL_IS_STUCK : PROBE_OPEN;
}
