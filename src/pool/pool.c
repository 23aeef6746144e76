#include "pool/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "base/states.h"
#include "drain/drain.h"
#include "peer/reply.h"
#include "peer/runtime.h"
#include "pool/member.h"
#include "pool/queue.h"
#include "spooler/job.h"
#include "spooler/spooler.h"

/* Happy path: a client logs in, the pool dials, RabbitMQ accepts, the login is stored in the
 * spool, the client is admitted; the pool stays connected while it has clients or a backlog.
 *
 * What can fail: RabbitMQ refuses the login (the waiting clients get its words), cannot be reached
 * (P6 decides about them; tried again with back-off), or is lost later (what it had not confirmed
 * goes to the spool, then the same back-off). */

enum {
    REFUSED_RETRY_MIN_MS = 1000,
    REFUSED_RETRY_MAX_MS = 60000,
    REFUSED_GRACE_MS = 5000, /* then clients that are connected are told */
    MORE_WAIT_MIN_MS = 1000,
    MORE_WAIT_MAX_MS = 60000
};

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
    .names = {[LOGIN_UNKNOWN] = "unknown", [LOGIN_PROVEN] = "proven", [LOGIN_REFUSED] = "refused"},
    .next =
        {
            [LOGIN_UNKNOWN] = TO(LOGIN_PROVEN) | TO(LOGIN_REFUSED),
            [LOGIN_PROVEN] = TO(LOGIN_UNKNOWN) | TO(LOGIN_REFUSED),
            [LOGIN_REFUSED] = TO(LOGIN_UNKNOWN) | TO(LOGIN_PROVEN),
        },
};

/* ---- state ---- */

static void login_move(struct pool *pool, enum pool_login to)
{
    if (pool->login != to)
        STATE_MOVE(&login_states, pool->login, to);
}

static struct upstream *first_usable(struct pool *pool)
{
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = n->next) {
        struct upstream *u = LIST_ENTRY(n, struct upstream, owner_node);
        if (u->state == UPSTREAM_OPEN && u->use == UPSTREAM_FOR_ALL && !upstream_is_unread(u))
            return u;
    }
    return NULL;
}

bool pool_is_connected(struct pool *pool)
{
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = n->next)
        if (LIST_ENTRY(n, struct upstream, owner_node)->state == UPSTREAM_OPEN)
            return true;
    return false;
}

bool pool_may_return(struct pool *pool)
{
    return pool->login == LOGIN_PROVEN && pool->failures == 0 && !pool_is_connected(pool);
}

bool pool_close_waits(const struct pool *pool)
{
    return pool->rt->config->pool.close_waits || pool->state != POOL_LIVE;
}

static enum pool_state state_now(struct pool *pool)
{
    if (!first_usable(pool))
        return POOL_OFFLINE;
    bool is_live = !queue_must_drain(pool->queue) && !pool->queue->backlog.drain &&
                   !queue_stores_first(pool->queue);
    return is_live ? POOL_LIVE : POOL_DRAINING;
}

/* Also of a pool that has never been connected since the start. */
static void begin_buffering(struct pool *pool)
{
    if (!runtime_buffers(pool->rt) || pool->buffering_since_ms)
        return;
    if (!runtime_serves(pool->rt))
        return; /* it hangs up itself */
    pool->buffering_since_ms = runtime_now(pool->rt);
    LOG(LOG_WARN, "buffering_started", LOG_T("user", pool->user), LOG_T("vhost", pool->vhost));
}

void pool_update(struct pool *pool)
{
    enum pool_state state = state_now(pool);
    if (state == pool->state)
        return;
    LOG(LOG_DEBUG, "pool_state", LOG_T("user", pool->user), LOG_T("vhost", pool->vhost),
        LOG_T("from", states.names[pool->state]), LOG_T("to", states.names[state]));
    if (state == POOL_OFFLINE)
        begin_buffering(pool);
    else
        pool->buffering_since_ms = 0;
    if (pool->state == POOL_OFFLINE)
        pool->queue->backlog.back_ms = runtime_now(pool->rt);
    if (state == POOL_LIVE)
        backoff_reset(&pool->backoff);
    STATE_MOVE(&states, pool->state, state);
    pool_wake(pool);
    if (state == POOL_DRAINING)
        queue_drain_if_possible(pool->queue);
}

void pool_wake(struct pool *pool)
{
    if (!list_empty(&pool->held) && list_empty(&pool->wake_node))
        list_append(&pool->pools->waking, &pool->wake_node);
}

/* One turn for each that is held now and may go on; those that must wait again queue up behind,
 * the others keep their place. */
static void wake(struct pool *pool)
{
    struct list end, here;
    list_append(&pool->held, &end);
    for (struct list *n = pool->held.next; n != &end; n = here.next, list_remove(&here)) {
        list_append(n->next, &here); /* before the one behind it */
        struct member *m = LIST_ENTRY(n, struct member, node);
        m->events->on_wake(m);
    }
    list_remove(&end);
}

void pools_run_wakes(struct pools *pools)
{
    struct list *node;
    while ((node = list_first(&pools->waking)) != NULL) {
        struct pool *pool = LIST_ENTRY(node, struct pool, wake_node);
        list_remove(&pool->wake_node);
        wake(pool);
    }
}

static void note_trouble(struct pool *pool, const char *text)
{
    snprintf(pool->trouble, sizeof pool->trouble, "%.*s", (int)sizeof pool->trouble - 1, text);
}

/* ---- dialing ---- */

static const struct upstream_events events;
static void store_login(struct pool *pool);
static void set_password(struct pool *pool, const struct identity *id, const char *password);

static bool has_none(const struct pool *pool)
{
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = n->next)
        if (LIST_ENTRY(n, struct upstream, owner_node)->use == UPSTREAM_FOR_ALL)
            return false;
    return true;
}

static struct upstream *dial_with(struct pool *pool, const char *password)
{
    struct upstream *u = upstream_dial(pool->pools->upstreams, pool->dial_user, password,
                                       pool->vhost, NULL, 0, &events, pool);
    pool->dialing++;
    list_append(&pool->upstreams, &u->owner_node);
    return u;
}

static struct upstream *dial(struct pool *pool)
{
    return dial_with(pool, secrets_to_dial(&pool->secrets));
}

/* ---- a new secret ---- */

/* The next one that has brought one, or NULL. */
static struct member *next_asker(struct pool *pool)
{
    for (struct list *n = pool->members.next; n != &pool->members; n = n->next) {
        struct member *m = LIST_ENTRY(n, struct member, pool_node);
        if (m->new_secret)
            return m;
    }
    return NULL;
}

static void decide_secret(struct pool *pool, const char *secret, enum secret_verdict verdict)
{
    struct list *next;
    for (struct list *n = pool->members.next; n != &pool->members; n = next) {
        struct member *m = LIST_ENTRY(n, struct member, pool_node);
        next = n->next;
        if (m->new_secret && strcmp(m->new_secret, secret) == 0)
            m->events->on_secret(m, verdict);
    }
}

/* What can be said of a new secret without RabbitMQ, or that it has to be asked. RabbitMQ's own
 * users keep their password whatever secret is brought (their backend answers yes to all); with a
 * token another identity is refused, and other permissions are another pool's. */
static enum secret_verdict judge_secret(struct pool *pool, const char *secret)
{
    struct identity id;
    identity_init(&id, pool->dial_user, secret);
    bool known = pool_vouches(pool, &id, secret);
    bool same = strcmp(id.name, pool->user) == 0, shared = pool->client_count > 1;
    bool other_rights = id.rights != pool->rights;
    identity_clear(&id);
    if (known)
        return SECRET_ACCEPTED;
    if (!same)
        return pool->rights ? SECRET_REFUSED : SECRET_ACCEPTED;
    return other_rights && shared ? SECRET_ELSEWHERE : SECRET_OPEN;
}

static bool is_asking(const struct pool *pool)
{
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = n->next) {
        const struct upstream *u = LIST_ENTRY(n, struct upstream, owner_node);
        if (u->state != UPSTREAM_OPEN && secrets_is_candidate(&pool->secrets, u->password))
            return true;
    }
    return false;
}

/* RabbitMQ is asked about one at a time. While it is away the client hears yes, and the next
 * connection decides. */
void pool_ask_secrets(struct pool *pool)
{
    struct member *m;
    while (!is_asking(pool) && (m = next_asker(pool)) != NULL) {
        enum secret_verdict verdict = judge_secret(pool, m->new_secret);
        if (verdict == SECRET_OPEN) {
            secret_set(&pool->secrets.candidate, m->new_secret);
            bool away = list_empty(&pool->upstreams) && pool->login != LOGIN_REFUSED;
            if (!away && runtime_serves(pool->rt)) {
                uv_timer_stop(&pool->retry);
                dial(pool);
                return;
            }
            verdict = SECRET_ACCEPTED;
        }
        char *secret = NULL;
        secret_set(&secret, m->new_secret);
        decide_secret(pool, secret, verdict);
        secret_wipe(&secret);
    }
}

static bool is_new_secret(const struct pool *pool, const struct upstream *u)
{
    return secrets_is_candidate(&pool->secrets, u->password);
}

/* The pool's connections were opened with a secret that may run out (a token), and so were those
 * that clients have to themselves: they are told. */
static void tell_upstreams(struct pool *pool)
{
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = n->next) {
        struct upstream *u = LIST_ENTRY(n, struct upstream, owner_node);
        if (u->state == UPSTREAM_OPEN && strcmp(u->password, pool->secrets.current) != 0)
            upstream_update_secret(u, pool->secrets.current);
    }
    for (struct list *n = pool->members.next; n != &pool->members; n = n->next) {
        struct member *m = LIST_ENTRY(n, struct member, pool_node);
        m->events->on_password(m);
    }
}

/* RabbitMQ has accepted it. */
static void adopt_secret(struct pool *pool, const char *secret)
{
    struct identity id;
    identity_init(&id, pool->dial_user, secret);
    set_password(pool, &id, secret);
    identity_clear(&id);
    secret_wipe(&pool->secrets.candidate);
    tell_upstreams(pool);
    decide_secret(pool, pool->secrets.current, SECRET_ACCEPTED);
}

/* The pool keeps its old one; without a connection that is tried again at once. */
static void refuse_secret(struct pool *pool, const struct upstream *u,
                          const struct upstream_end *end)
{
    LOG_OFTEN(LOG_WARN, "secret_refused", LOG_T("user", pool->user), LOG_T("vhost", pool->vhost),
              LOG_N("code", end->code), LOG_T("reason", end->text));
    if (is_new_secret(pool, u)) {
        secret_wipe(&pool->secrets.candidate);
        decide_secret(pool, u->password, pool->rights ? SECRET_REFUSED : SECRET_ACCEPTED);
    }
    pool_ask_secrets(pool);
    pool_connect(pool);
}

/* ---- what it knows ---- */

static bool is_of(const struct pool *pool, const struct identity *id, const char *vhost)
{
    return (!vhost || strcmp(pool->vhost, vhost) == 0) && pool->rights == id->rights &&
           strcmp(pool->user, id->name) == 0;
}

bool pool_vouches(struct pool *pool, const struct identity *id, const char *password)
{
    if (pool->login != LOGIN_PROVEN || identity_has_expired(id) || !pool_is_connected(pool))
        return false;
    return secrets_vouch(&pool->secrets, password, runtime_now(pool->rt));
}

struct pool *pool_find(struct pools *pools, const struct identity *id, const char *password,
                       const char *vhost)
{
    struct pool *best = NULL;
    for (struct list *n = pools->all.next; n != &pools->all; n = n->next) {
        struct pool *pool = LIST_ENTRY(n, struct pool, node);
        if (!is_of(pool, id, vhost) || !secrets_know(&pool->secrets, password))
            continue;
        if (pool_vouches(pool, id, password))
            return pool;
        if (!best || pool->login == LOGIN_PROVEN)
            best = pool;
    }
    return best;
}

/* The one before stays good for a while, if it was: other tokens of this login are in use too. */
static void set_password(struct pool *pool, const struct identity *id, const char *password)
{
    secrets_replace(&pool->secrets, password, pool->login == LOGIN_PROVEN, runtime_now(pool->rt));
    pool->expires_s = id->expires_s;
    pool->rights = id->rights;
    pool->queue->has_tokens = pool->queue->has_tokens || pool->rights;
}

static struct pool *find_login(struct pools *pools, const struct identity *id, const char *vhost)
{
    for (struct list *n = pools->all.next; n != &pools->all; n = n->next)
        if (is_of(LIST_ENTRY(n, struct pool, node), id, vhost))
            return LIST_ENTRY(n, struct pool, node);
    return NULL;
}

/* The newest password is the one to dial with; of tokens the one that holds longest. */
struct pool *pool_prove(struct pools *pools, const struct identity *id, const char *password,
                        const char *vhost)
{
    struct pool *pool = pool_find(pools, id, password, vhost);
    if (!pool)
        pool = find_login(pools, id, vhost);
    if (!pool)
        pool = pool_new(pools, id, password, vhost, LOGIN_PROVEN);
    bool is_shorter = pool->login == LOGIN_PROVEN && id->expires_s < pool->expires_s;
    bool is_new = !secret_is(pool->secrets.current, password);
    if (is_new && is_shorter)
        secrets_remember(&pool->secrets, password, runtime_now(pool->rt));
    else if (is_new)
        set_password(pool, id, password);
    if (is_new && !is_shorter && id->is_token)
        tell_upstreams(pool);
    login_move(pool, LOGIN_PROVEN);
    store_login(pool);
    return pool;
}

/* Is tried again soon at first: RabbitMQ may just have started, and know its users a moment later.
 */
static void refuse_login(struct pool *pool, const struct upstream_end *end)
{
    if (pool->login == LOGIN_REFUSED)
        return;
    LOG(LOG_WARN, "login_refused", LOG_T("user", pool->user), LOG_T("vhost", pool->vhost),
        LOG_N("code", end->code), LOG_T("reason", end->text));
    login_move(pool, LOGIN_REFUSED);
    pool->refused_ms = runtime_now(pool->rt);
    backoff_reset(&pool->backoff);
}

void pool_disprove(struct pools *pools, const struct identity *id, const char *password,
                   const char *vhost, const struct upstream_end *end)
{
    for (struct list *n = pools->all.next; n != &pools->all; n = n->next) {
        struct pool *pool = LIST_ENTRY(n, struct pool, node);
        if (!is_of(pool, id, vhost))
            continue;
        secrets_forget(&pool->secrets, password);
        if (secret_is(pool->secrets.current, password) && !pool_is_connected(pool)) {
            refuse_login(pool, end);
            note_trouble(pool, end->text);
        }
    }
}

void pool_connect(struct pool *pool)
{
    if (runtime_serves(pool->rt) && has_none(pool) && !uv_is_active((uv_handle_t *)&pool->retry))
        dial(pool);
}

static bool wants_connection(const struct pool *pool)
{
    return runtime_serves(pool->rt) &&
           (pool->client_count > 0 || pool->pinned || queue_has_backlog(pool->queue));
}

/* Each of them has its turn before anybody hears that there is none, and before the next wait. */
static bool dial_next_broker(struct pool *pool)
{
    if (++pool->tried < pool->pools->upstreams->targets.count && wants_connection(pool) &&
        has_none(pool)) {
        dial(pool);
        return true;
    }
    pool->tried = 0;
    return false;
}

static void on_retry(uv_timer_t *timer)
{
    struct pool *pool = timer->data;
    if (wants_connection(pool))
        pool_connect(pool);
    else
        pool->unreachable = false; /* nobody knows any more */
}

static void schedule_retry(struct pool *pool)
{
    const struct config *config = pool->rt->config;
    bool refused = pool->login == LOGIN_REFUSED;
    uint64_t least = refused ? REFUSED_RETRY_MIN_MS : config->upstream.reconnect_min_ms;
    uint64_t most = refused ? REFUSED_RETRY_MAX_MS : config->upstream.reconnect_max_ms;
    uint64_t delay = backoff_failed(&pool->backoff, runtime_now(pool->rt), least, most);
    uint64_t jittered = backoff_jittered(delay, most, (uint64_t)random());
    LOG(LOG_DEBUG, "retry_scheduled", LOG_T("user", pool->user), LOG_T("vhost", pool->vhost),
        LOG_N("ms", jittered));
    uv_timer_start(&pool->retry, on_retry, jittered, 0);
}

/* ---- logins ---- */

static void admit_waiting(struct pool *pool)
{
    struct list *node;
    while ((node = list_first(&pool->waiting)) != NULL) {
        struct member *m = LIST_ENTRY(node, struct member, node);
        list_remove(node);
        m->events->on_admitted(m);
    }
}

static void refuse_waiting(struct pool *pool, uint16_t code, const char *text)
{
    struct list *node;
    while ((node = list_first(&pool->waiting)) != NULL) {
        struct member *m = LIST_ENTRY(node, struct member, node);
        list_remove(node);
        if (code == 403 || code == 530) {
            pool->rt->counters.login_refused++;
            LOG_OFTEN(LOG_WARN, "login_refused", LOG_T("user", pool->user),
                      LOG_T("vhost", pool->vhost), LOG_N("client", m->id), LOG_T("peer", m->peer),
                      LOG_N("code", code), LOG_T("reason", text));
        }
        m->events->on_refused(m, code, text);
    }
}

static bool may_enter_offline(const struct pool *pool)
{
    return pool->login == LOGIN_PROVEN && runtime_buffers(pool->rt);
}

static void admit_buffered(struct pool *pool)
{
    if (!list_empty(&pool->waiting))
        begin_buffering(pool);
    admit_waiting(pool);
}

/* P6: RabbitMQ cannot be asked. */
static void decide_unreachable(struct pool *pool)
{
    bool accept =
        pool->login == LOGIN_PROVEN || (pool->login == LOGIN_UNKNOWN &&
                                        pool->rt->config->spool.unverified_logins == LOGINS_ACCEPT);
    if (!runtime_buffers(pool->rt))
        refuse_waiting(pool, 320, LOST_RABBITMQ);
    else if (accept)
        admit_buffered(pool);
    else
        refuse_waiting(pool, 403,
                       "ACCESS_REFUSED - upstream unavailable and this login is not known");
}

static void on_login_stored(struct job *job)
{
    struct pool *pool = handles_get(job->owner);
    struct queue *queue = handles_get(job->context);
    if (job->status == STATUS_OK && queue) {
        queue->backlog.id = job->queue;
        queue_set_password(queue, job->put.password);
    } else if (queue) {
        LOG(LOG_ERROR, "login_not_stored", LOG_T("user", queue->user), LOG_T("vhost", queue->vhost),
            LOG_T("reason", job->error));
    }
    if (!pool)
        return;
    pool->storing = false;
    if (job->status == STATUS_OK && pool->login == LOGIN_PROVEN)
        store_login(pool); /* another password may have been proven meanwhile */
    if (first_usable(pool))
        admit_waiting(pool);
    else
        decide_unreachable(pool);
    pool_update(pool);
}

/* Remembers in the spool that RabbitMQ has accepted this login, before anybody relies on it. */
static void store_login(struct pool *pool)
{
    struct queue *queue = pool->queue;
    if (!runtime_buffers(pool->rt) || pool->storing ||
        (queue->backlog.id && queue->password &&
         strcmp(queue->password, pool->secrets.current) == 0))
        return;
    struct job *job = job_new(JOB_QUEUE_PUT, 0, on_login_stored, pool->handle);
    job->context = queue->handle;
    job->put.user = strdup(queue->user);
    job->put.vhost = strdup(pool->vhost);
    job->put.password = strdup(pool->secrets.current);
    ENSURE(job->put.user && job->put.vhost && job->put.password);
    pool->storing = true;
    spooler_post(pool->rt->spooler, job);
}

/* ---- the way in ---- */

static void join(struct pool *pool, struct member *m)
{
    member_forget_password(m);
    m->pool = pool;
    pool->client_count++;
    list_append(&pool->members, &m->pool_node);
    list_append(&pool->waiting, &m->node);
}

void pool_hold(struct member *m)
{
    if (m->held || !m->pool)
        return;
    m->held = true;
    list_remove(&m->node);
    list_append(&m->pool->held, &m->node);
}

void pool_let_go(struct member *m)
{
    m->held = false;
    list_remove(&m->node);
}

void pool_leave(struct member *m)
{
    struct pool *pool = m->pool;
    m->pool = NULL;
    list_remove(&m->pool_node);
    pool->client_count--;
    if (pool->client_count == 0)
        pool->idle_since_ms = runtime_now(pool->rt);
}

void pool_enter(struct pool *pool, struct member *m)
{
    join(pool, m);
    if (pool->storing)
        return;
    if (pool_is_connected(pool)) {
        admit_waiting(pool);
    } else {
        decide_unreachable(pool);
        pool_connect(pool);
    }
}

void pool_enter_offline(struct pool *pool, struct member *m)
{
    join(pool, m);
    pool->unreachable = true;
    if (list_empty(&pool->upstreams) && !uv_is_active((uv_handle_t *)&pool->retry))
        schedule_retry(pool);
    /* A queue needs a login to go out with; one that is proven is not given up for it. */
    if (pool->login == LOGIN_UNKNOWN && !pool->queue->password)
        store_login(pool);
    if (!pool->storing)
        decide_unreachable(pool);
}

/* ---- what the upstreams say ---- */

/* RabbitMQ may allow no more of them (a limit): doubling, as after an outage. */
static void put_off_more(struct pool *pool)
{
    backoff_failed(&pool->more, runtime_now(pool->rt), MORE_WAIT_MIN_MS, MORE_WAIT_MAX_MS);
}

/* Was dialled to ask about a secret, and is not needed for anything else. */
static bool has_only_asked(struct pool *pool, const struct upstream *u)
{
    unsigned open = 0;
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = n->next)
        open += LIST_ENTRY(n, struct upstream, owner_node)->state == UPSTREAM_OPEN;
    return open > 1 && is_new_secret(pool, u);
}

static void opened(struct pool *pool, struct upstream *u)
{
    bool has_asked = has_only_asked(pool, u);
    pool->tried = 0;
    backoff_reset(&pool->more);
    pool->unreachable = false;
    pool->failures = 0;
    pool->trouble[0] = 0;
    if (is_new_secret(pool, u))
        adopt_secret(pool, u->password);
    if (has_asked)
        upstream_close(u);
    login_move(pool, LOGIN_PROVEN);
    store_login(pool);
    if (!pool->storing)
        admit_waiting(pool);
    pool_update(pool);
    pool_wake(pool);
    if (pool->state == POOL_DRAINING)
        queue_drain_if_possible(pool->queue); /* it may have waited for a channel number */
    pool_ask_secrets(pool);
}

static void on_open(struct upstream *u)
{
    struct pool *pool = u->owner;
    pool->dialing--;
    opened(pool, u);
}

/* Who is connected would go on filling a queue that nobody can empty: a user that was deleted, a
 * token that has run out. They hear RabbitMQ's words, and what is stored waits for a better login.
 */
static void refuse_clients(struct pool *pool, const struct upstream_end *end)
{
    struct list *next;
    for (struct list *n = pool->members.next; n != &pool->members; n = next) {
        struct member *m = LIST_ENTRY(n, struct member, pool_node);
        next = n->next;
        m->events->on_refused(m, end->code, end->text);
    }
}

static void on_failed(struct upstream *u, const struct upstream_end *end)
{
    struct pool *pool = u->owner;
    pool->dialing--;
    pool_wake(pool);
    if (end->refusal == REFUSAL_LOGIN && strcmp(u->password, pool->secrets.current) != 0) {
        refuse_secret(pool, u, end);
        return;
    }
    if (is_new_secret(pool, u)) { /* RabbitMQ cannot be asked; the next connection decides */
        decide_secret(pool, u->password, SECRET_ACCEPTED);
        pool_ask_secrets(pool);
    }
    if (pool_is_connected(pool)) {
        put_off_more(pool); /* it was one more than there are, and none is missing */
        queue_changed(pool->queue);
        return;
    }
    note_trouble(pool, end->text);
    if (end->refusal == REFUSAL_LOGIN) {
        refuse_login(pool, end);
        refuse_waiting(pool, end->code, end->text);
        if (runtime_now(pool->rt) - pool->refused_ms >= REFUSED_GRACE_MS)
            refuse_clients(pool, end);
    } else {
        if (end->refusal == REFUSAL_NONE && dial_next_broker(pool) && !may_enter_offline(pool))
            return;
        pool->unreachable = true;
        pool->failures++;
        pool_wake(pool); /* who waited for this try alone */
        if (!pool->storing)
            decide_unreachable(pool);
    }
    if (wants_connection(pool) && has_none(pool))
        schedule_retry(pool);
}

static void on_lost(struct upstream *u, const struct upstream_end *end)
{
    struct pool *pool = u->owner;
    note_trouble(pool, end->text);
    pool->pools->events->on_upstream_lost(pool, u, end);
    pool_update(pool);
    if (has_none(pool)) {
        pool->unreachable = true;
        schedule_retry(pool);
    }
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
    if (!runtime_buffers(pool->rt)) {
        pass_on_blocked(pool, u->blocked);
    }
    pool_update(pool);
    pool_wake(pool);
}

static void on_writable(struct upstream *u)
{
    struct pool *pool = u->owner;
    pool_wake(pool);
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
    if (pool_is_connected(pool) || !runtime_serves(pool->rt)) {
        upstream_close(u);
        return;
    }
    list_append(&pool->upstreams, &u->owner_node);
    uv_timer_stop(&pool->retry);
    opened(pool, u);
}

void pool_want_another(struct pool *pool)
{
    if (backoff_is_over(&pool->more, runtime_now(pool->rt)) && runtime_serves(pool->rt))
        dial(pool);
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

void pool_learn_limit(struct pool *pool, const char *text)
{
    caution_learn_limit(&pool->caution, text, pool->relay_count, runtime_now(pool->rt));
}

const char *pool_channel_limit(const struct pool *pool)
{
    uint32_t channels = pool->relay_count + (pool->queue->backlog.drain ? 1 : 0);
    return caution_limit(&pool->caution, channels, runtime_now(pool->rt));
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

/* One with a free channel number, or NULL; then another one is asked for. One of its own if the
 * queue is to be drained alone. */
static struct upstream *pick_for_drain(struct pool *pool)
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

/* ---- what its queue asks ---- */

static struct pool *pool_of(const struct queue_user *user)
{
    return LIST_ENTRY(user, struct pool, use);
}

static void on_changed(struct queue_user *user)
{
    pool_update(pool_of(user));
    pool_wake(pool_of(user));
}

static void on_wake(struct queue_user *user)
{
    pool_wake(pool_of(user));
}

/* If somebody has come meanwhile its login is stored anew, else it is as one that RabbitMQ has not
 * been asked about. */
static void on_forgotten(struct queue_user *user)
{
    struct pool *pool = pool_of(user);
    if (pool->client_count > 0 && pool->login == LOGIN_PROVEN)
        store_login(pool);
    else if (list_empty(&pool->upstreams))
        login_move(pool, LOGIN_UNKNOWN);
}

static void on_wanted(struct queue_user *user)
{
    pool_connect(pool_of(user));
}

static bool is_used(const struct queue_user *user, uint64_t now_ms, uint64_t within_ms)
{
    const struct pool *pool = pool_of(user);
    return pool->client_count > 0 || pool->pinned || now_ms - pool->idle_since_ms < within_ms;
}

static struct upstream *pick_upstream(struct queue_user *user)
{
    struct pool *pool = pool_of(user);
    return pool->state == POOL_DRAINING ? pick_for_drain(pool) : NULL;
}

static const struct queue_user_events queue_events = {
    .on_changed = on_changed,
    .on_wake = on_wake,
    .on_forgotten = on_forgotten,
    .on_wanted = on_wanted,
    .is_used = is_used,
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

static void close_upstreams(struct pool *pool)
{
    struct list *node;
    while ((node = list_first(&pool->upstreams)) != NULL) {
        struct upstream *u = LIST_ENTRY(node, struct upstream, owner_node);
        if (u->state != UPSTREAM_OPEN)
            pool->dialing--;
        upstream_close(u);
    }
}

static void pool_free(struct pool *pool)
{
    ENSURE(list_empty(&pool->waiting) && list_empty(&pool->held));
    close_upstreams(pool);
    list_remove(&pool->node);
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
    *pools = (struct pools){.rt = upstreams->rt, .upstreams = upstreams, .events = told};
    list_init(&pools->all);
    list_init(&pools->queues);
    list_init(&pools->waking);
}

void pools_close(struct pools *pools)
{
    struct list *node;
    while ((node = list_first(&pools->all)) != NULL)
        pool_free(LIST_ENTRY(node, struct pool, node));
    while ((node = list_first(&pools->queues)) != NULL)
        queue_free(LIST_ENTRY(node, struct queue, node));
}

void pool_cleanup(struct pool *pool, uint64_t now_ms)
{
    uint64_t timeout = pool->rt->config->pool.idle_timeout_ms;
    struct list *next;
    bool keep_one = pool->client_count > 0 || pool->pinned;
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = next) {
        struct upstream *u = LIST_ENTRY(n, struct upstream, owner_node);
        next = n->next;
        bool last = pool->upstreams.next->next == &pool->upstreams;
        if (u->state == UPSTREAM_OPEN && links_are_idle(&u->links) &&
            now_ms - u->idle_since_ms >= timeout && !(last && keep_one))
            upstream_close(u);
    }
    pool_update(pool);
    /* What is not known to the spool is forgotten; what is known is needed in an outage. */
    bool known = pool->login == LOGIN_PROVEN && pool->queue->backlog.id;
    if (pool->client_count == 0 && list_empty(&pool->upstreams) && !pool->pinned && !known &&
        !pool->storing && pool->relay_count == 0 && now_ms - pool->idle_since_ms >= timeout &&
        !(queue_has_backlog(pool->queue) && pool->queue->users.next->next == &pool->queue->users))
        pool_free(pool);
}
