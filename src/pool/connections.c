#include "pool/connections.h"

#include <stdlib.h>

#include "base/log.h"
#include "peer/runtime.h"
#include "upstream/links.h"

enum {
    REFUSED_RETRY_MIN_MS = 1000,
    REFUSED_RETRY_MAX_MS = 60000,
    MORE_WAIT_MIN_MS = 1000,
    MORE_WAIT_MAX_MS = 60000
};

struct upstream *connections_usable(struct pool *pool)
{
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = n->next) {
        struct upstream *u = LIST_ENTRY(n, struct upstream, owner_node);
        if (u->state == UPSTREAM_OPEN && u->use == UPSTREAM_FOR_ALL && !upstream_is_unread(u))
            return u;
    }
    return NULL;
}

bool connections_are_open(const struct pool *pool)
{
    return connections_open_count(pool) > 0;
}

bool connections_are_missing(const struct pool *pool)
{
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = n->next)
        if (LIST_ENTRY(n, struct upstream, owner_node)->use == UPSTREAM_FOR_ALL)
            return false;
    return true;
}

unsigned connections_open_count(const struct pool *pool)
{
    unsigned open = 0;
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = n->next) {
        const struct upstream *u = LIST_ENTRY(n, struct upstream, owner_node);
        open += u->state == UPSTREAM_OPEN && u->use == UPSTREAM_FOR_ALL;
    }
    return open;
}

bool connections_are_wanted(const struct pool *pool)
{
    return runtime_serves(pool->rt) &&
           (pool->client_count > 0 || pool->pinned || queue_has_backlog(pool->queue));
}

bool connections_are_missed(const struct pool *pool)
{
    return connections_are_wanted(pool) && connections_are_missing(pool) &&
           !uv_is_active((const uv_handle_t *)&pool->retry);
}

/* ---- dialling ---- */

static struct upstream *dial(struct pool *pool)
{
    struct upstream *u =
        upstream_dial(pool->pools->upstreams, pool->dial_user, secrets_to_dial(&pool->secrets),
                      pool->vhost, NULL, 0, pool->pools->upstream_events, pool);
    pool->dialing++;
    list_append(&pool->upstreams, &u->owner_node);
    return u;
}

void connections_dial(struct pool *pool)
{
    uv_timer_stop(&pool->retry);
    dial(pool);
}

void connections_want(struct pool *pool)
{
    if (runtime_serves(pool->rt) && connections_are_missing(pool) &&
        !uv_is_active((uv_handle_t *)&pool->retry))
        dial(pool);
}

void connections_want_more(struct pool *pool, const struct upstream *beside)
{
    if (!backoff_is_over(&pool->more, runtime_now(pool->rt)) || !runtime_serves(pool->rt))
        return;
    struct upstream *u = dial(pool);
    if (beside)
        under_way_begin_as(&u->under_way, &beside->under_way);
}

/* Those that were dialled together fail together, which counts once. */
void connections_put_off_more(struct pool *pool)
{
    uint64_t now = runtime_now(pool->rt);
    if (backoff_is_over(&pool->more, now))
        backoff_failed(&pool->more, now, MORE_WAIT_MIN_MS, MORE_WAIT_MAX_MS);
}

bool connections_try_next_broker(struct pool *pool)
{
    if (++pool->tried < pool->pools->upstreams->targets.count && connections_are_wanted(pool) &&
        connections_are_missing(pool)) {
        connections_dial(pool);
        return true;
    }
    pool->tried = 0;
    return false;
}

static void on_retry(uv_timer_t *timer)
{
    struct pool *pool = timer->data;
    if (connections_are_wanted(pool))
        connections_want(pool);
    else
        pool->unreachable = false; /* nobody knows any more */
}

void connections_retry(struct pool *pool)
{
    if (uv_is_active((uv_handle_t *)&pool->retry))
        return;
    const struct config *config = pool->rt->config;
    bool refused = pool->login == LOGIN_REFUSED, suspected = pool->login == LOGIN_SUSPECTED;
    uint64_t least =
        refused || suspected ? REFUSED_RETRY_MIN_MS : config->upstream.reconnect_min_ms;
    uint64_t most = refused ? REFUSED_RETRY_MAX_MS : config->upstream.reconnect_max_ms;
    if (suspected)
        most = REFUSED_RETRY_MIN_MS; /* whether RabbitMQ goes away again is known in time */
    uint64_t delay = backoff_failed(&pool->backoff, runtime_now(pool->rt), least, most);
    uint64_t jittered = backoff_jittered(delay, most, (uint64_t)random());
    LOG(LOG_DEBUG, "retry_scheduled", LOG_T("user", pool->user), LOG_T("vhost", pool->vhost),
        LOG_N("ms", jittered));
    uv_timer_start(&pool->retry, on_retry, jittered, 0);
}

void connections_reconfigured(struct pool *pool)
{
    uint64_t most = pool->rt->config->upstream.reconnect_max_ms;
    bool waits = pool->login != LOGIN_REFUSED && pool->login != LOGIN_SUSPECTED &&
                 uv_is_active((uv_handle_t *)&pool->retry);
    if (waits && uv_timer_get_due_in(&pool->retry) > most)
        uv_timer_start(&pool->retry, on_retry, most, 0);
}

void connections_ensure(struct pool *pool)
{
    if (connections_are_missed(pool))
        connections_retry(pool);
}

void connections_add(struct pool *pool, struct upstream *u)
{
    list_append(&pool->upstreams, &u->owner_node);
    uv_timer_stop(&pool->retry);
}

/* ---- for a drain ---- */

/* What waits may end each of them: so the next one is dialled later and later. The tick looks. */
static struct upstream *pick_alone(struct pool *pool)
{
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = n->next) {
        struct upstream *u = LIST_ENTRY(n, struct upstream, owner_node);
        if (u->use == UPSTREAM_FOR_DRAIN)
            return u->state == UPSTREAM_OPEN && !upstream_is_unread(u) ? u : NULL;
    }
    const struct config *config = pool->rt->config;
    uint64_t now = runtime_now(pool->rt);
    if (!runtime_serves(pool->rt) || !backoff_is_over(&pool->alone, now))
        return NULL;
    backoff_failed(&pool->alone, now, config->upstream.reconnect_min_ms,
                   config->upstream.reconnect_max_ms);
    dial(pool)->use = UPSTREAM_FOR_DRAIN;
    return NULL;
}

struct upstream *connections_for_drain(struct pool *pool)
{
    bool dialing = false;
    if (pool->queue->backlog.alone && backoff_is_over(&pool->more, runtime_now(pool->rt)))
        return pick_alone(pool);
    if (!pool->queue->backlog.alone)
        backoff_reset(&pool->alone);
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = n->next) {
        struct upstream *u = LIST_ENTRY(n, struct upstream, owner_node);
        if (u->state == UPSTREAM_OPEN && u->use == UPSTREAM_FOR_ALL && !upstream_is_unread(u) &&
            links_have_room(&u->links, false))
            return u;
        dialing = dialing || u->state != UPSTREAM_OPEN;
    }
    if (!dialing && backoff_is_over(&pool->more, runtime_now(pool->rt)))
        dial(pool);
    return NULL;
}

/* ---- closing ---- */

/* It came when what it was dialled for had been confirmed, late, where it was sent first. */
static bool is_too_late(const struct pool *pool, const struct upstream *u)
{
    return u->use == UPSTREAM_FOR_DRAIN && !pool->queue->backlog.drain &&
           !queue_must_drain(pool->queue);
}

void connections_close_idle(struct pool *pool, uint64_t now_ms)
{
    uint64_t timeout = pool->rt->config->pool.idle_timeout_ms;
    struct list *next;
    bool keep_one = connections_are_wanted(pool);
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = next) {
        struct upstream *u = LIST_ENTRY(n, struct upstream, owner_node);
        next = n->next;
        bool last = u->use == UPSTREAM_FOR_ALL && connections_open_count(pool) == 1;
        bool is_old = now_ms - u->idle_since_ms >= timeout && !(last && keep_one);
        if (u->state == UPSTREAM_OPEN && links_are_idle(&u->links) &&
            (is_old || is_too_late(pool, u)))
            upstream_close(u);
    }
}

void connections_close(struct pool *pool)
{
    struct list *node;
    while ((node = list_first(&pool->upstreams)) != NULL) {
        struct upstream *u = LIST_ENTRY(node, struct upstream, owner_node);
        if (u->state != UPSTREAM_OPEN)
            pool->dialing--;
        upstream_close(u);
    }
}
