#include "proxy/balance.h"

#ifdef AMQPBUF_CRASH_POINTS

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/log.h"
#include "pool/connections.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "proxy/proxy_struct.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/relay.h"
#include "session/transaction.h"
#include "spooler/spooler.h"
#include "upstream/upstream.h"

/* What the counters say, beside what a walk finds. */
struct found {
    uint64_t clients, in_pools, reserved, committing, spooling;
    uint64_t upstreams, relays, retained;
};

static void compare(const char *what, uint64_t said, uint64_t found)
{
    if (said != found)
        LOG_OFTEN(LOG_ERROR, "unbalanced", LOG_T("what", what), LOG_N("said", said),
                  LOG_N("found", found));
}

static void walk_clients(const struct proxy *proxy, struct found *f)
{
    for (struct list *n = proxy->clients.all.next; n != &proxy->clients.all; n = n->next) {
        const struct client *c = LIST_ENTRY(n, struct client, node);
        uint64_t channels = 0;
        f->clients++;
        f->in_pools += c->member.pool != NULL;
        for (uint32_t i = 0; i < c->channels_capacity; i++) {
            const struct channel *ch = c->channels[i];
            if (!ch)
                continue;
            channels++;
            f->reserved += ch->tx ? transaction_places(ch->tx) : 0;
            f->spooling += ch->spooling;
        }
        compare("channels of a client", c->channel_count, channels);
    }
}

/* What is under way on one upstream. */
struct load {
    uint64_t publishes, bytes, senders;
};

static void count_open(struct relay *r, struct load *load)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < r->unconfirmed.count; i++) {
        const struct retained *entry = unconfirmed_at(&r->unconfirmed, i);
        if (entry->state != RETAINED_OPEN)
            continue;
        count++;
        load->bytes += entry->bytes;
    }
    compare("open publishes of a relay", r->open, count);
    load->publishes += count;
    load->senders += count > 0;
}

/* Of transactions whose commit is under way. */
static uint64_t count_committing(struct relay *r)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < r->calls.count; i++)
        count += calls_at(&r->calls, i)->tx ? transaction_places(calls_at(&r->calls, i)->tx) : 0;
    return count;
}

static void walk_upstreams(const struct proxy *proxy, struct found *f)
{
    for (struct list *n = proxy->upstreams.all.next; n != &proxy->upstreams.all; n = n->next) {
        const struct upstream *u = LIST_ENTRY(n, struct upstream, node);
        uint64_t links = 0;
        struct load load = {0};
        f->upstreams += u->state == UPSTREAM_OPEN;
        struct link *link;
        for (uint32_t at = 0; (link = links_next(&u->links, &at)) != NULL;) {
            struct relay *r = relay_of(link);
            links++;
            if (!r)
                continue;
            f->relays++;
            f->committing += count_committing(r);
            count_open(r, &load);
        }
        compare("channels of an upstream", u->links.count, links);
        compare("publishes unconfirmed on an upstream", u->under_way.window.under_way,
                load.publishes);
        compare("bytes unconfirmed on an upstream", u->under_way.bytes, load.bytes);
        compare("relays with something unconfirmed on an upstream", u->under_way.senders,
                load.senders);
        f->retained += load.publishes;
    }
}

static void look_at_dials(const struct pool *pool)
{
    uint64_t dialing = 0;
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = n->next)
        dialing += LIST_ENTRY(n, struct upstream, owner_node)->state != UPSTREAM_OPEN;
    compare("upstreams being dialled", pool->dialing, dialing);
}

/* Each pool of a queue hears of what waits there when it is stored. */
static void look_at_connections(const struct pool *pool)
{
    if (pool->queue->appending == 0)
        compare("pools without a connection or a next try", 0, connections_are_missed(pool));
}

static void look_at_pools(const struct proxy *proxy, const struct found *f)
{
    uint64_t clients = 0, relays = 0;
    for (struct list *n = proxy->pools.all.next; n != &proxy->pools.all; n = n->next) {
        const struct pool *pool = LIST_ENTRY(n, struct pool, node);
        if (proxy->stage != PROXY_CLOSING) /* then they are all being closed */
            look_at_dials(pool);
        look_at_connections(pool);
        clients += pool->client_count;
        relays += pool->relay_count;
    }
    compare("clients of pools", clients, f->in_pools);
    compare("relays of pools", relays, f->relays);
}

static void look_at_queues(const struct proxy *proxy, const struct found *f)
{
    uint64_t reserved = 0, committing = 0, retained = 0, appending = 0;
    for (struct list *n = proxy->pools.queues.all.next; n != &proxy->pools.queues.all;
         n = n->next) {
        const struct queue *queue = LIST_ENTRY(n, struct queue, node);
        reserved += queue->reserved;
        committing += queue->committing;
        retained += queue->retained;
        appending += queue->appending;
    }
    compare("places reserved", reserved, f->reserved);
    compare("places of commits under way", committing, f->committing);
    compare("publishes retained", retained, f->retained);
    if (proxy->rt.spooler && spooler_pending(proxy->rt.spooler) > 0)
        return;
    compare("messages being appended", appending, 0);
    compare("appends of channels under way", f->spooling, 0);
    if (proxy->rt.spooler)
        compare("bytes on their way to the spool", spooler_pending_bytes(proxy->rt.spooler), 0);
}

void balance_look(struct proxy *proxy)
{
    struct found found = {0};
    walk_clients(proxy, &found);
    walk_upstreams(proxy, &found);
    compare("clients", proxy->rt.counters.clients, found.clients);
    compare("upstreams", proxy->rt.counters.upstreams, found.upstreams);
    look_at_pools(proxy, &found);
    look_at_queues(proxy, &found);
}

static void look_at_store(struct proxy *proxy)
{
    struct spool_view view = {0};
    spooler_view(proxy->rt.spooler, &view);
    for (struct list *n = proxy->pools.queues.all.next; n != &proxy->pools.queues.all;
         n = n->next) {
        const struct queue *queue = LIST_ENTRY(n, struct queue, node);
        const struct queue_gauges *gauges = spool_view_find(&view, queue->backlog.id);
        if (!gauges)
            continue;
        compare("messages of a queue", queue->backlog.waiting, gauges->messages);
        compare("rejected messages of a queue", queue->backlog.rejected, gauges->rejected);
    }
    free(view.queues);
}

void balance_look_at_end(struct proxy *proxy)
{
    balance_look(proxy);
    if (proxy->rt.spooler && spooler_pending(proxy->rt.spooler) == 0)
        look_at_store(proxy);
}

#endif
