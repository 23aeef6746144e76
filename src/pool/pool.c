#include "pool/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "drain/drain.h"
#include "peer/runtime.h"
#include "pool/admission.h"
#include "pool/connections.h"
#include "pool/held.h"
#include "pool/member.h"
#include "pool/password.h"
#include "pool/pool_state.h"
#include "pool/queue.h"

/* Happy path: a client logs in, the pool dials, RabbitMQ accepts, the login is stored in the
 * spool, the client is admitted; the pool stays connected while it has clients or a backlog.
 *
 * What can fail: RabbitMQ refuses the login (the waiting clients get its words), cannot be reached
 * (P6 decides about them; tried again with back-off), or is lost later (what it had not confirmed
 * goes to the spool, then the same back-off). */

static void note_trouble(struct pool *pool, const char *text)
{
    snprintf(pool->trouble, sizeof pool->trouble, "%.*s", (int)sizeof pool->trouble - 1, text);
}

/* ---- who has logged in ---- */

static bool is_of(const struct pool *pool, const struct identity *id, const char *vhost)
{
    return (!vhost || strcmp(pool->vhost, vhost) == 0) && pool->rights == id->rights &&
           strcmp(pool->user, id->name) == 0;
}

static uint64_t hash_user(const char *name)
{
    return index_hash(name, 0);
}

static uint64_t hash_login(const char *name, const char *vhost)
{
    return index_hash(vhost, hash_user(name));
}

/* The first pool of that login (in any vhost if that is NULL), or the next one after `pool`. */
static struct pool *next_of(const struct pools *pools, const struct pool *pool,
                            const struct identity *id, const char *vhost)
{
    const struct index *index = vhost ? &pools->by_login : &pools->by_user;
    struct index_node *n;
    if (pool)
        n = index_next(index, vhost ? &pool->by_login : &pool->by_user);
    else
        n = index_find(index, vhost ? hash_login(id->name, vhost) : hash_user(id->name));
    while (n && !is_of(n->owner, id, vhost))
        n = index_next(index, n);
    return n ? n->owner : NULL;
}

struct pool *pool_find(struct pools *pools, const struct identity *id, const char *password,
                       const char *vhost)
{
    struct pool *best = NULL;
    for (struct pool *pool = next_of(pools, NULL, id, vhost); pool;
         pool = next_of(pools, pool, id, vhost)) {
        if (!secrets_know(&pool->secrets, password))
            continue;
        if (password_vouches(pool, id, password))
            return pool;
        if (!best || pool->login == LOGIN_PROVEN)
            best = pool;
    }
    return best;
}

/* The newest password is the one to dial with; of tokens the one that holds longest. */
struct pool *pool_prove(struct pools *pools, const struct identity *id, const char *password,
                        const char *vhost)
{
    struct pool *pool = pool_find(pools, id, password, vhost);
    if (!pool)
        pool = next_of(pools, NULL, id, vhost);
    if (!pool)
        pool = pool_new(pools, id, password, vhost, LOGIN_PROVEN);
    if (password_take(pool, id, password) && id->is_token)
        password_tell(pool);
    pool_state_login(pool, LOGIN_PROVEN);
    admission_store(pool);
    return pool;
}

static void refuse_login(struct pool *pool, const struct upstream_end *end)
{
    if (!pool_state_is_refused(pool))
        LOG(LOG_WARN, "login_refused", LOG_T("user", pool->user), LOG_T("vhost", pool->vhost),
            LOG_N("code", end->code), LOG_T("reason", end->text));
    pool_state_refuse(pool);
}

void pool_disprove(struct pools *pools, const struct identity *id, const char *password,
                   const char *vhost, const struct upstream_end *end)
{
    for (struct pool *pool = next_of(pools, NULL, id, vhost); pool;
         pool = next_of(pools, pool, id, vhost)) {
        secrets_forget(&pool->secrets, password);
        if (secret_is(pool->secrets.current, password) && !connections_are_open(pool)) {
            refuse_login(pool, end);
            note_trouble(pool, end->text);
        }
    }
}

/* ---- what the upstreams say ---- */

/* Was dialled to ask about a secret, and is not needed for anything else. */
static bool has_only_asked(struct pool *pool, const struct upstream *u)
{
    return connections_open_count(pool) > 1 && password_is_candidate(pool, u);
}

static void opened(struct pool *pool, struct upstream *u)
{
    bool has_asked = has_only_asked(pool, u);
    if (u->use == UPSTREAM_FOR_ALL && connections_open_count(pool) == 1)
        pool->queue->backlog.back_ms = runtime_now(pool->rt);
    pool->tried = 0;
    backoff_reset(&pool->more);
    pool->unreachable = false;
    pool->failures = 0;
    pool_state_note_away(pool, false);
    pool->trouble[0] = 0;
    if (password_is_candidate(pool, u))
        password_adopt(pool, u->password);
    if (has_asked)
        upstream_close(u);
    pool_state_login(pool, LOGIN_PROVEN);
    admission_store(pool);
    admission_admit(pool);
    pool_state_update(pool);
    held_wake(pool);
    if (pool->state == POOL_DRAINING)
        queue_drain_if_possible(pool->queue); /* it may have waited for a channel number */
    password_ask(pool);
}

static void on_open(struct upstream *u)
{
    struct pool *pool = u->owner;
    pool->dialing--;
    if (!password_is_elsewhere(pool, u)) {
        opened(pool, u);
        return;
    }
    upstream_close(u);
    pool_state_update(pool);
    password_ask(pool);
}

static bool may_enter_offline(const struct pool *pool)
{
    return pool->login == LOGIN_PROVEN && runtime_buffers(pool->rt);
}

static void on_failed(struct upstream *u, const struct upstream_end *end)
{
    struct pool *pool = u->owner;
    pool->dialing--;
    held_wake(pool);
    if (end->refusal == REFUSAL_LOGIN && strcmp(u->password, pool->secrets.current) != 0) {
        password_refused(pool, u, end);
        return;
    }
    if (password_is_candidate(pool, u))
        password_undecided(pool, u);
    if (connections_are_open(pool)) {
        connections_put_off_more(pool); /* it was one more than there are, and none is missing */
        queue_changed(pool->queue);
        return;
    }
    note_trouble(pool, end->text);
    pool_state_note_away(pool, end->refusal == REFUSAL_NONE);
    if (end->refusal == REFUSAL_LOGIN && password_fall_back(pool)) {
        connections_dial(pool);
    } else if (end->refusal == REFUSAL_LOGIN) {
        refuse_login(pool, end);
        admission_refuse(pool, end->code, end->text);
        if (runtime_now(pool->rt) - pool->refused_ms >= LOGIN_GRACE_MS)
            admission_expel(pool, end);
    } else {
        bool tries_next = end->refusal == REFUSAL_NONE && connections_try_next_broker(pool);
        if (tries_next && !may_enter_offline(pool))
            return;
        if (!tries_next)
            pool_state_away(pool);
        pool->unreachable = true;
        pool->failures++;
        held_wake(pool); /* who waited for this try alone */
        admission_decide_unreachable(pool);
    }
    pool_state_update(pool);
}

static void on_lost(struct upstream *u, const struct upstream_end *end)
{
    struct pool *pool = u->owner;
    note_trouble(pool, end->text);
    pool->pools->events->on_upstream_lost(pool, u, end);
    bool is_missing = connections_are_missing(pool);
    pool->unreachable = pool->unreachable || is_missing;
    pool_state_update(pool);
    if (is_missing)
        connections_retry(pool);
    queue_changed(pool->queue);
}

static void pass_on_blocked(struct pool *pool, bool blocked)
{
    for (struct list *n = pool->members.next; n != &pool->members; n = n->next) {
        struct member *m = LIST_ENTRY(n, struct member, pool_node);
        m->events->on_blocked(m, blocked);
    }
}

/* An alarm: RabbitMQ reads nothing more from a connection that publishes. Away for publishing: what
 * it has not confirmed a moment later goes to the spool (stalled.c). */
static void on_blocked(struct upstream *u)
{
    struct pool *pool = u->owner;
    note_trouble(pool, u->blocked ? "RabbitMQ has raised an alarm and blocks publishing" : "");
    if (!runtime_buffers(pool->rt))
        pass_on_blocked(pool, u->blocked);
    pool_state_update(pool);
    held_wake(pool);
}

static void on_writable(struct upstream *u)
{
    struct pool *pool = u->owner;
    held_wake(pool);
    if (pool->queue->backlog.drain)
        drain_go_on(pool->queue->backlog.drain);
}

static const struct upstream_events events = {
    .on_open = on_open,
    .on_failed = on_failed,
    .on_lost = on_lost,
    .on_blocked = on_blocked,
    .on_writable = on_writable,
};

void pool_adopt(struct pool *pool, struct upstream *u)
{
    u->owner = pool;
    u->events = &events;
    if (connections_are_open(pool) || !runtime_serves(pool->rt)) {
        upstream_close(u);
        return;
    }
    connections_add(pool, u);
    opened(pool, u);
}

/* ---- what ends upstreams ---- */

void pool_beware(struct pool *pool, amqp_method_number_t method)
{
    caution_beware(&pool->caution, method, runtime_now(pool->rt));
}

bool pool_is_wary(const struct pool *pool, amqp_method_number_t method)
{
    return caution_is_wary(&pool->caution, method, runtime_now(pool->rt));
}

static uint32_t channels(const struct pool *pool)
{
    return pool->relay_count + backlog_channels(&pool->queue->backlog);
}

void pool_learn_limit(struct pool *pool, const char *text)
{
    caution_learn_limit(&pool->caution, text, channels(pool), runtime_now(pool->rt));
}

const char *pool_channel_limit(const struct pool *pool)
{
    return caution_limit(&pool->caution, channels(pool), runtime_now(pool->rt));
}

/* ---- what its queue asks ---- */

static struct pool *pool_of(const struct queue_user *user)
{
    return LIST_ENTRY(user, struct pool, use);
}

static void on_changed(struct queue_user *user)
{
    pool_state_update(pool_of(user));
    held_wake(pool_of(user));
}

static void on_wake(struct queue_user *user)
{
    held_wake(pool_of(user));
}

/* If somebody has come meanwhile its login is stored anew, else it is as one that RabbitMQ has not
 * been asked about. */
static void on_forgotten(struct queue_user *user)
{
    struct pool *pool = pool_of(user);
    if (pool->client_count > 0 && pool->login == LOGIN_PROVEN)
        admission_store(pool);
    else if (list_empty(&pool->upstreams))
        pool_state_login(pool, LOGIN_UNKNOWN);
}

static void on_wanted(struct queue_user *user)
{
    connections_want(pool_of(user));
}

static bool is_used(const struct queue_user *user, uint64_t now_ms, uint64_t within_ms)
{
    const struct pool *pool = pool_of(user);
    return pool->client_count > 0 || pool->pinned || now_ms - pool->idle_since_ms < within_ms;
}

static bool may_open(const struct queue_user *user)
{
    return !pool_channel_limit(LIST_ENTRY(user, struct pool, use));
}

static struct upstream *pick_upstream(struct queue_user *user)
{
    struct pool *pool = pool_of(user);
    return pool->state == POOL_DRAINING ? connections_for_drain(pool) : NULL;
}

static const struct queue_user_events queue_events = {
    .on_changed = on_changed,
    .on_wake = on_wake,
    .on_forgotten = on_forgotten,
    .on_wanted = on_wanted,
    .is_used = is_used,
    .may_open = may_open,
    .pick_upstream = pick_upstream,
};

/* ---- life ---- */

struct pool *pool_new(struct pools *pools, const struct identity *id, const char *password,
                      const char *vhost, enum pool_login login)
{
    struct pool *pool = calloc(1, sizeof *pool);
    ENSURE(pool);
    pool->rt = pools->rt;
    pool->pools = pools;
    pool->user = strdup(id->name);
    pool->dial_user = strdup(id->dial_user);
    pool->vhost = strdup(vhost);
    ENSURE(pool->user && pool->dial_user && pool->vhost);
    secrets_init(&pool->secrets, password);
    pool->rights = id->rights;
    pool->expires_s = id->expires_s;
    pool->login = login; /* a new one */
    pool->handle = handles_add(pool);
    list_init(&pool->upstreams);
    list_init(&pool->members);
    list_init(&pool->waiting);
    list_init(&pool->held);
    list_init(&pool->wake_node);
    list_append(&pools->all, &pool->node);
    index_add(&pools->by_user, &pool->by_user, hash_user(pool->user), pool);
    index_add(&pools->by_login, &pool->by_login, hash_login(pool->user, vhost), pool);
    pool->queue = queue_find(&pools->queues, id->name, vhost);
    if (!pool->queue)
        pool->queue = queue_new(pool->rt, &pools->queues, id->name, id->name, vhost);
    pool->queue->has_tokens = pool->queue->has_tokens || pool->rights;
    pool->use.events = &queue_events;
    list_append(&pool->queue->users, &pool->use.node);
    ENSURE(uv_timer_init(&pool->rt->loop, &pool->retry) == 0);
    pool->retry.data = pool;
    pool->idle_since_ms = runtime_now(pool->rt);
    return pool;
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct pool *pool = handle->data;
    secrets_deinit(&pool->secrets);
    free(pool->user);
    free(pool->dial_user);
    free(pool->vhost);
    free(pool);
}

static void pool_free(struct pool *pool)
{
    ENSURE(list_empty(&pool->waiting) && list_empty(&pool->held));
    connections_close(pool);
    list_remove(&pool->node);
    index_remove(&pool->pools->by_user, &pool->by_user);
    index_remove(&pool->pools->by_login, &pool->by_login);
    list_remove(&pool->use.node);
    list_remove(&pool->wake_node);
    handles_remove(pool->handle);
    struct queue *queue = pool->queue;
    if (queue->backlog.id == 0 && list_empty(&queue->users) && !queue_has_backlog(queue))
        queue_free(queue);
    uv_close((uv_handle_t *)&pool->retry, on_timer_closed);
}

void pools_init(struct pools *pools, struct upstreams *upstreams, const struct pools_events *told)
{
    *pools = (struct pools){
        .rt = upstreams->rt, .upstreams = upstreams, .events = told, .upstream_events = &events};
    list_init(&pools->all);
    list_init(&pools->queues.all);
    list_init(&pools->waking);
}

void pools_close(struct pools *pools)
{
    struct list *node;
    while ((node = list_first(&pools->all)) != NULL)
        pool_free(LIST_ENTRY(node, struct pool, node));
    while ((node = list_first(&pools->queues.all)) != NULL)
        queue_free(LIST_ENTRY(node, struct queue, node));
    index_deinit(&pools->by_user);
    index_deinit(&pools->by_login);
    index_deinit(&pools->queues.by_name);
}

void pool_reconfigured(struct pool *pool)
{
    connections_reconfigured(pool);
    if (pool->login == LOGIN_PROVEN)
        admission_store(pool);
}

void pool_cleanup(struct pool *pool, uint64_t now_ms)
{
    connections_close_idle(pool, now_ms);
    pool_state_update(pool);
    /* What is not known to the spool is forgotten; what is known is needed in an outage. */
    bool known = pool_state_is_accepted(pool) && pool->queue->backlog.id;
    if (pool->client_count == 0 && list_empty(&pool->upstreams) && !pool->pinned && !known &&
        !pool->storing && pool->relay_count == 0 &&
        now_ms - pool->idle_since_ms >= pool->rt->config->pool.idle_timeout_ms &&
        !(queue_has_backlog(pool->queue) && pool->queue->users.next->next == &pool->queue->users))
        pool_free(pool);
}
