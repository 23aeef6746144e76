#include "session/orphans.h"

#include "base/handles.h"
#include "peer/runtime.h"
#include "pool/pool.h"
#include "session/failover.h"
#include "session/relay.h"
#include "session/route.h"
#include "spooler/spooler.h"

enum { ALARM_IS_OVER_MS = 1000 };

/* In an alarm RabbitMQ reads no close, and answers what it has read when it is over. */
static bool is_read(const struct upstream *u, uint64_t now_ms)
{
    return !u->blocked && now_ms - upstream_reads_since(u, 0) >= ALARM_IS_OVER_MS;
}

/* Where only the answer to a close proves what was published, the close comes behind what is
 * awaited. */
static bool is_due(const struct relay *r, uint64_t now_ms)
{
    return !r->channel && !r->shared && !relay_is_settled(r) && r->unproven == 0 &&
           now_ms >= r->orphan_until_ms && is_read(r->link.upstream, now_ms);
}

/* False: it may stay RabbitMQ's to answer for. A client that is still there is told nothing of it
 * before that. */
static bool has_another_place(const struct relay *r)
{
    if (route_spools(r->pool))
        return spooler_has_room(r->pool->rt->spooler);
    return !handles_get(r->client);
}

/* RabbitMQ reads, and does not answer the close: it is stuck on the channel. */
static bool is_unclosed(const struct relay *r, uint64_t now_ms)
{
    const struct upstream *u = r->link.upstream;
    uint32_t timeout_ms = r->pool->rt->config->pool.confirm_timeout_ms;
    return !r->channel && r->close != CLOSE_NONE && r->open == 0 && r->unproven == 0 &&
           !u->blocked && now_ms >= upstream_reads_since(u, r->orphan_until_ms) + timeout_ms;
}

/* The client is gone, and nothing else is left there. */
static bool is_stuck(const struct upstream *u, uint64_t now_ms)
{
    const struct relay *r;
    if (u->owner || u->state != UPSTREAM_OPEN || u->links.count == 0)
        return false;
    for (uint32_t at = 0; (r = relay_next(u, &at)) != NULL;)
        if (!is_unclosed(r, now_ms))
            return false;
    return true;
}

static void look_at(struct relay *r)
{
    if (!has_another_place(r))
        return;
    if (route_spools(r->pool))
        failover_orphan(r);
    relay_give_up(r);
}

void orphans_look(struct upstreams *upstreams, uint64_t now_ms)
{
    for (struct list *n = upstreams->all.next; n != &upstreams->all; n = n->next) {
        struct upstream *u = LIST_ENTRY(n, struct upstream, node);
        struct relay *r;
        if (!u->client_properties)
            continue;
        for (uint32_t at = 0; (r = relay_next(u, &at)) != NULL;)
            if (is_due(r, now_ms))
                look_at(r);
        if (is_stuck(u, now_ms))
            upstream_close(u);
    }
}
