#include "proxy/failover.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/handles.h"
#include "proxy/channel.h"
#include "proxy/client.h"
#include "proxy/offline.h"
#include "proxy/pool.h"
#include "proxy/proxy.h"
#include "proxy/queue.h"
#include "proxy/relay.h"
#include "proxy/spool_out.h"

/* One thing that was sent and not answered: a publish or a method of a relay. */
struct unanswered {
    uint64_t stamp;
    struct relay *relay;
    struct retained *publish; /* or NULL: */
    struct awaited *call;
};

static int by_stamp(const void *a, const void *b)
{
    uint64_t x = ((const struct unanswered *)a)->stamp, y = ((const struct unanswered *)b)->stamp;
    return (x > y) - (x < y);
}

static size_t count_unanswered(struct upstream *u)
{
    size_t count = 0;
    for (uint32_t i = 0; i < u->links_capacity; i++) {
        struct relay *r = u->links[i] ? relay_of(u->links[i]) : NULL;
        if (r)
            count += r->ring_count + r->call_count;
    }
    return count;
}

static size_t collect(struct upstream *u, struct unanswered *out)
{
    size_t n = 0;
    for (uint32_t i = 0; i < u->links_capacity; i++) {
        struct relay *r = u->links[i] ? relay_of(u->links[i]) : NULL;
        if (!r)
            continue;
        for (uint32_t k = 0; k < r->ring_count; k++) {
            struct retained *entry = relay_retained(r, k);
            if (entry->state == RETAINED_OPEN)
                out[n++] = (struct unanswered){entry->stamp, r, entry, NULL};
        }
        for (uint32_t k = 0; k < r->call_count; k++)
            out[n++] =
                (struct unanswered){relay_awaited(r, k)->stamp, r, NULL, relay_awaited(r, k)};
    }
    return n;
}

static void answer_call(struct relay *r, struct awaited *call)
{
    struct channel *channel = r->channel;
    struct span *payload = &call->payload;
    if (call->tx) { /* a commit: its answer follows the spool's */
        spool_transaction(r->pool, call->tx);
        call->tx = NULL;
        return;
    }
    if (!payload->slab)
        return; /* the proxy's own */
    method_set_nowait(payload->at, payload->len, call->nowait);
    if (!channel)
        offline_keep(r->pool, payload->at, payload->len);
    else if (channel->state == CHANNEL_OPEN || channel->state == CHANNEL_SETTLING)
        offline_method(channel, payload->at, payload->len, call->method);
}

/* Also that of a channel which was closed before, if it has published what is lost now. */
static void close_client(struct relay *r)
{
    struct client *client = r->channel    ? r->channel->client
                            : r->open > 0 ? handles_get(r->client)
                                          : NULL;
    if (client)
        client_refuse(client, 320, LOST_RABBITMQ, 0);
}

static void close_clients(struct upstream *u)
{
    for (uint32_t i = 0; i < u->links_capacity; i++) {
        struct relay *r = u->links[i] ? relay_of(u->links[i]) : NULL;
        if (r)
            close_client(r);
    }
}

void failover_upstream(struct pool *pool, struct upstream *u)
{
    if (!proxy_buffers(pool->proxy) || !pool->queue->id) {
        close_clients(u);
        return;
    }
    size_t count = count_unanswered(u);
    if (count == 0)
        return;
    struct unanswered *all = malloc(count * sizeof *all);
    ENSURE(all);
    count = collect(u, all);
    qsort(all, count, sizeof *all, by_stamp);
    for (size_t i = 0; i < count; i++) {
        if (all[i].publish && !all[i].publish->message.method.slab)
            close_client(all[i].relay); /* sent while buffering was off: nothing was kept of it */
        else if (all[i].publish)
            spool_publish(pool, relay_owner(all[i].relay), &all[i].publish->message,
                          all[i].publish->client_tag);
        else
            answer_call(all[i].relay, all[i].call);
    }
    free(all);
}
