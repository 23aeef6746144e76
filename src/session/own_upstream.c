#include "session/own_upstream.h"

#include "peer/reply.h"
#include "peer/runtime.h"
#include "pool/held.h"
#include "pool/pool.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/failover.h"
#include "session/relay.h"
#include "session/route.h"
#include "upstream/upstream.h"

enum { DIAL_AGAIN_MS = 1000 };

bool own_upstream_is_lacking(const struct client *c)
{
    return c->lacks_own_since_ms && c->lacks_own_since_ms == c->member.pool->buffering_since_ms;
}

/* Its queues are nobody's any more, and others wait for them. */
static void hurry(struct upstream *own)
{
    struct relay *r;
    for (uint32_t at = 0; (r = relay_next(own, &at)) != NULL;)
        relay_hurry(r);
}

void own_upstream_release(struct client *c)
{
    if (!c->own)
        return;
    struct upstream *own = c->own;
    c->own = NULL;
    own->owner = NULL;
    if (c->owns_queues)
        hurry(own);
    if (own->state == UPSTREAM_OPEN)
        stream_resume(&own->stream); /* it may have waited for a client that did not read */
    /* What it has published is confirmed first; then the last relay closes the upstream. */
    if (own->state != UPSTREAM_OPEN || own->links.count == 0)
        upstream_close(own);
}

static void own_opened(struct upstream *u)
{
    struct client *c = u->owner;
    if (!c)
        return;
    c->lacks_own_since_ms = 0;
    held_wake(c->member.pool);
}

/* What it wants may be answered here as well, as long as publishes go to the spool. */
static bool can_do_without(const struct client *c, const struct upstream_end *end)
{
    const struct pool *pool = c->member.pool;
    return pool->state == POOL_OFFLINE && pool->buffering_since_ms && route_spools(pool) &&
           !own_upstream_is_lacking(c) && end->refusal != REFUSAL_LOGIN;
}

static void own_failed(struct upstream *u, const struct upstream_end *end)
{
    struct client *c = u->owner;
    if (!c)
        return;
    c->own = NULL;
    if (can_do_without(c, end)) {
        c->lacks_own_since_ms = c->member.pool->buffering_since_ms;
        held_wake(c->member.pool);
        return;
    }
    bool refused = end->refusal != REFUSAL_NONE;
    /* RabbitMQ may be going away, and the pool not know it yet: then what the client wants can wait
     * in the spool. If it still has to be asked a second later, it is asked once more. */
    if (!refused && route_spools(c->member.pool) && client_waits(c, DIAL_AGAIN_MS))
        return;
    client_refuse(c, refused ? end->code : 320, refused ? end->text : LOST_RABBITMQ, 0);
}

/* Who has consumers, deliveries that are not settled, or queues of its own must connect again. Who
 * had them, and publishes now, need not hear of it, nor who has closed their channel. */
static bool would_lose(const struct client *c)
{
    for (uint32_t i = 0; i < c->channels_capacity; i++) {
        const struct channel *ch = c->channels[i];
        if (ch && ch->state != CHANNEL_CLOSING && ch->relay && relay_is_consumed(ch->relay))
            return true;
    }
    return c->owns_queues;
}

static void own_lost(struct upstream *u, const struct upstream_end *end)
{
    struct client *c = u->owner;
    if (!c) {
        uint32_t at = 0;
        const struct relay *first = relay_next(u, &at);
        if (first)
            failover_own(first->pool, u, FAILOVER_DROP);
        return;
    }
    struct pool *pool = c->member.pool;
    bool loses = would_lose(c); /* before calls are answered in RabbitMQ's place */
    /* RabbitMQ's own error for what this client did, or the end of what it was consuming: nobody
     * but RabbitMQ answers its calls then. */
    bool is_error = end->code && end->code != 320;
    failover_own(pool, u, is_error || loses ? FAILOVER_DROP : FAILOVER_ANSWER);
    c->own = NULL;
    if (is_error)
        client_refuse(c, end->code, end->text, end->cause);
    else if (loses)
        client_refuse(c, 320, LOST_RABBITMQ, 0);
    held_wake(pool);
}

static void own_writable(struct upstream *u)
{
    struct client *c = u->owner;
    if (c)
        held_wake(c->member.pool);
}

/* Who waits for RabbitMQ to answer a close would wait until the alarm is over. */
static void own_blocked(struct upstream *u)
{
    struct client *c = u->owner;
    if (!c)
        return;
    if (!runtime_buffers(c->rt))
        client_tell_alarm(c, u->blocked);
    held_wake(c->member.pool);
    for (uint32_t i = 0; i < c->channels_capacity; i++)
        if (c->channels[i])
            channel_settled(c->channels[i]);
    client_settled(c);
}

static void own_left(struct upstream *u)
{
    struct client *c = u->owner;
    if (!c)
        return;
    c->own = NULL;
    client_settled(c);
}

static const struct upstream_events own_events = {
    .on_open = own_opened,
    .on_failed = own_failed,
    .on_lost = own_lost,
    .on_blocked = own_blocked,
    .on_writable = own_writable,
    .on_left = own_left,
};

void own_upstream_dial(struct client *c)
{
    struct pool *pool = c->member.pool;
    c->own = upstream_dial(pool->pools->upstreams, pool->dial_user, pool->secrets.current,
                           pool->vhost, c->properties, c->properties_len, &own_events, c);
}
