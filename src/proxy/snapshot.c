#include "proxy/snapshot.h"

#include <stdlib.h>

#include "base/assert.h"
#include "peer/budget.h"
#include "pool/login.h"
#include "pool/pool.h"
#include "pool/pool_state.h"
#include "pool/queue.h"
#include "proxy/memory_limit.h"
#include "proxy/proxy_struct.h"
#include "spool/others.h"
#include "spooler/spooler.h"

const char *const snapshot_state_names[SNAPSHOT_STATES] = {
    [SNAPSHOT_LIVE] = "live",
    [SNAPSHOT_DRAINING] = "draining",
    [SNAPSHOT_PAUSED] = "paused",
    [SNAPSHOT_OFFLINE] = "offline",
    [SNAPSHOT_LOGIN_REFUSED] = "login_refused",
    [SNAPSHOT_IDLE] = "idle",
};

/* Publishes are stored first, and no more of them wait than may be under way. */
static bool keeps_up(const struct queue *queue)
{
    return queue_stores_first(queue) && queue->backlog.drain &&
           queue->backlog.waiting + queue->appending <= backlog_window(&queue->backlog);
}

static enum snapshot_state state_of(const struct pool *pool)
{
    if (pool->state == POOL_LIVE || (pool->state == POOL_DRAINING && keeps_up(pool->queue)))
        return SNAPSHOT_LIVE;
    if (pool->state == POOL_DRAINING)
        return pool->queue->backlog.paused ? SNAPSHOT_PAUSED : SNAPSHOT_DRAINING;
    bool needed = pool->client_count > 0 || pool->pinned || queue_has_backlog(pool->queue);
    if (pool_state_is_refused(pool))
        return needed ? SNAPSHOT_LOGIN_REFUSED : SNAPSHOT_IDLE;
    bool wanted = needed || pool->unreachable || !list_empty(&pool->upstreams);
    return wanted ? SNAPSHOT_OFFLINE : SNAPSHOT_IDLE;
}

/* The best of its pools speaks for the queue: an old password's pool does not make it offline. */
static void describe(struct snapshot_queue *out, const struct queue *queue)
{
    out->user = queue->user;
    out->vhost = queue->vhost;
    out->state = queue_has_backlog(queue) ? SNAPSHOT_OFFLINE : SNAPSHOT_IDLE;
    out->paused = queue->backlog.paused;
    out->drained = queue->backlog.drained;
    out->drain_rate = queue->drain_rate.per_second;
    bool first = true;
    for (struct list *n = queue->users.next; n != &queue->users; n = n->next) {
        const struct pool *pool = LIST_ENTRY(n, struct pool, use.node);
        enum snapshot_state state = state_of(pool);
        out->clients += pool->client_count;
        if (!first && state >= out->state)
            continue;
        first = false;
        out->state = state;
        bool away = state == SNAPSHOT_OFFLINE || state == SNAPSHOT_LOGIN_REFUSED;
        out->reason = away && pool->trouble[0] ? pool->trouble : NULL;
    }
}

static void find_gauges(struct snapshot_queue *out, const struct queue *queue,
                        const struct spool_view *spool)
{
    const struct queue_gauges *found = spool_view_find(spool, queue->backlog.id);
    if (found)
        out->spool = *found;
}

/* Full means for everybody: one queue that is full is that queue's own trouble, and is not live. */
static const char *why_not_ready(const struct snapshot *s, const struct proxy *proxy)
{
    if (proxy->stage != PROXY_RUNNING)
        return "the proxy is stopping";
    const char *failure = runtime_buffers(&proxy->rt)
                              ? spooler_failure(proxy->rt.spooler, runtime_now(&proxy->rt))
                              : NULL;
    if (failure)
        return failure;
    if (s->spooler_busy_ms >= SPOOLER_STALLED_MS)
        return others_are_awaited() ? "another process holds LMDB's lock on the spool"
                                    : "the spool's disk does not answer";
    const char *misplaced =
        runtime_buffers(&proxy->rt) ? spooler_misplaced(proxy->rt.spooler) : NULL;
    if (misplaced)
        return misplaced;
    if (runtime_buffers(&proxy->rt) && !spooler_has_room(proxy->rt.spooler))
        return "the spool has no room";
    if (!login_is_possible(&proxy->logins))
        return "RabbitMQ has not been reached, and no login is known";
    for (uint32_t i = 0; i < s->queue_count; i++) {
        const struct snapshot_queue *queue = &s->queues[i];
        bool away = queue->state != SNAPSHOT_LIVE && queue->state != SNAPSHOT_IDLE;
        if (away && !runtime_buffers(&proxy->rt))
            return "RabbitMQ is away, and buffering is off";
        if (away && queue->spool.messages >= s->queue_max)
            return "a queue is full (pool.publish_buffer_size)";
    }
    return NULL;
}

void snapshot_take(struct snapshot *s, struct proxy *proxy)
{
    *s = (struct snapshot){
        .counters = proxy->rt.counters,
        .queue_max = runtime_buffers(&proxy->rt) ? proxy->rt.config->pool.publish_buffer_size : 0,
        .memory_bytes = budget_used(&proxy->rt.budget),
        .memory_max = proxy->rt.config->listen.max_memory_bytes};
    if (proxy->rt.spooler) {
        spooler_view(proxy->rt.spooler, &s->spool);
        s->spooler_busy_ms = spooler_busy_ms(proxy->rt.spooler);
    }
    for (struct list *n = proxy->pools.queues.all.next; n != &proxy->pools.queues.all; n = n->next)
        s->queue_count++;
    s->queues = calloc(s->queue_count + 1, sizeof *s->queues);
    ENSURE(s->queues);
    struct snapshot_queue *out = s->queues;
    for (struct list *n = proxy->pools.queues.all.next; n != &proxy->pools.queues.all;
         n = n->next, out++) {
        const struct queue *queue = LIST_ENTRY(n, struct queue, node);
        describe(out, queue);
        find_gauges(out, queue, &s->spool);
    }
    s->not_ready = why_not_ready(s, proxy);
}

void snapshot_free(struct snapshot *s)
{
    free(s->queues);
    free(s->spool.queues);
}
