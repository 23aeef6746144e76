#include "pool/pool_state.h"

#include "base/log.h"
#include "base/states.h"
#include "peer/runtime.h"
#include "pool/connections.h"
#include "pool/held.h"

static const struct states states = {
    .object = "pool",
    .names = {[POOL_OFFLINE] = "offline", [POOL_DRAINING] = "draining", [POOL_LIVE] = "live"},
    .next =
        {
            [POOL_OFFLINE] = TO(POOL_DRAINING) | TO(POOL_LIVE),
            [POOL_DRAINING] = TO(POOL_OFFLINE) | TO(POOL_LIVE),
            [POOL_LIVE] = TO(POOL_OFFLINE) | TO(POOL_DRAINING),
        },
};

static const struct states login_states = {
    .object = "login",
    .names = {[LOGIN_UNKNOWN] = "unknown",
              [LOGIN_PROVEN] = "proven",
              [LOGIN_SUSPECTED] = "suspected",
              [LOGIN_REFUSED] = "refused"},
    .next =
        {
            [LOGIN_UNKNOWN] = TO(LOGIN_PROVEN) | TO(LOGIN_REFUSED),
            [LOGIN_PROVEN] = TO(LOGIN_UNKNOWN) | TO(LOGIN_SUSPECTED),
            [LOGIN_SUSPECTED] = TO(LOGIN_UNKNOWN) | TO(LOGIN_PROVEN) | TO(LOGIN_REFUSED),
            [LOGIN_REFUSED] = TO(LOGIN_UNKNOWN) | TO(LOGIN_PROVEN),
        },
};

void pool_state_login(struct pool *pool, enum pool_login to)
{
    if (pool->login != to)
        STATE_MOVE(&login_states, pool->login, to);
}

static bool is_in_grace(const struct pool *pool)
{
    return pool->login == LOGIN_SUSPECTED &&
           runtime_now(pool->rt) - pool->refused_ms < LOGIN_GRACE_MS;
}

void pool_state_refuse(struct pool *pool)
{
    if (!pool_state_is_refused(pool)) {
        pool->refused_ms = runtime_now(pool->rt);
        backoff_reset(&pool->backoff);
    }
    if (pool->login == LOGIN_PROVEN)
        pool_state_login(pool, LOGIN_SUSPECTED);
    else if (!is_in_grace(pool))
        pool_state_login(pool, LOGIN_REFUSED);
}

void pool_state_away(struct pool *pool)
{
    if (is_in_grace(pool))
        pool_state_login(pool, LOGIN_PROVEN);
}

bool pool_state_is_accepted(const struct pool *pool)
{
    return pool->login == LOGIN_PROVEN || is_in_grace(pool);
}

bool pool_state_is_refused(const struct pool *pool)
{
    return pool->login == LOGIN_SUSPECTED || pool->login == LOGIN_REFUSED;
}

void pool_state_note_away(struct pool *pool, bool is_away)
{
    pool->away_ms = is_away ? runtime_now(pool->rt) : 0;
}

bool pool_state_is_away(const struct pool *pool, uint64_t within_ms)
{
    return pool->away_ms > 0 && runtime_now(pool->rt) - pool->away_ms < within_ms;
}

bool pool_state_may_return(struct pool *pool)
{
    return pool->login == LOGIN_PROVEN && pool->failures == 0 && !connections_are_open(pool);
}

bool pool_state_close_waits(const struct pool *pool)
{
    return pool->rt->config->pool.close_waits || pool->state != POOL_LIVE;
}

static enum pool_state state_now(struct pool *pool)
{
    if (!connections_usable(pool))
        return POOL_OFFLINE;
    bool is_live = !queue_must_drain(pool->queue) && !pool->queue->backlog.drain &&
                   !queue_stores_first(pool->queue);
    return is_live || queue_holds_few(pool->queue) ? POOL_LIVE : POOL_DRAINING;
}

void pool_state_buffers(struct pool *pool)
{
    if (!runtime_buffers(pool->rt) || pool->buffering_since_ms)
        return;
    if (!runtime_serves(pool->rt))
        return; /* it hangs up itself */
    pool->buffering_since_ms = runtime_now(pool->rt);
    LOG(LOG_WARN, "buffering_started", LOG_T("user", pool->user), LOG_T("vhost", pool->vhost));
}

void pool_state_update(struct pool *pool)
{
    enum pool_state state = state_now(pool);
    connections_ensure(pool);
    if (state == pool->state)
        return;
    LOG(LOG_DEBUG, "pool_state", LOG_T("user", pool->user), LOG_T("vhost", pool->vhost),
        LOG_T("from", states.names[pool->state]), LOG_T("to", states.names[state]));
    /* An idle connection that was closed is missed by nobody. */
    if (state == POOL_OFFLINE && (pool->unreachable || connections_are_wanted(pool)))
        pool_state_buffers(pool);
    else
        pool->buffering_since_ms = 0;
    if (state == POOL_LIVE)
        backoff_reset(&pool->backoff);
    STATE_MOVE(&states, pool->state, state);
    held_wake(pool);
    if (state == POOL_DRAINING)
        queue_drain_if_possible(pool->queue);
}
