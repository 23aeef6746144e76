#include "pool/login.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/states.h"
#include "peer/reply.h"
#include "peer/runtime.h"
#include "pool/admission.h"
#include "pool/identity.h"
#include "pool/member.h"
#include "pool/password.h"
#include "pool/pool.h"
#include "pool/pool_state.h"
#include "pool/secrets.h"
#include "upstream/upstream.h"

/* Happy path: an attempt dials without a vhost; RabbitMQ tunes, so the login is good, and the
 * members that wait for it go on. Its upstream waits for the first that names a vhost, opens that,
 * and becomes the pool's. A login that a connected pool knows is not asked about at all.
 *
 * What can fail: RabbitMQ refuses (its words go to the members), or is not there (P6 decides: who
 * was proven before is let in, and waits for no more than upstream.connect_timeout, however many
 * brokers there are). While it is known to be away it is tried for unknown logins every
 * upstream.reconnect_min and no oftener, however many there are. */

enum { DIALS_MAX = 32 };

enum attempt_state {
    ATTEMPT_QUEUED,  /* waits for its turn to dial */
    ATTEMPT_DIALING, /* RabbitMQ is being asked: about the vhost too, if there is one */
    ATTEMPT_PROVEN,  /* its upstream waits for a vhost */
};

struct attempt {
    struct logins *logins;
    struct list node; /* in logins->attempts */
    enum attempt_state state;
    struct identity identity;
    char *password, *vhost; /* vhost NULL: which one is not known yet */
    struct upstream *upstream;
    struct list members;
    unsigned tried; /* brokers */
    uint64_t begun_ms;
};

static const struct states states = {
    .object = "login attempt",
    .names =
        {[ATTEMPT_QUEUED] = "QUEUED", [ATTEMPT_DIALING] = "DIALING", [ATTEMPT_PROVEN] = "PROVEN"},
    .next =
        {
            [ATTEMPT_QUEUED] = TO(ATTEMPT_DIALING),
            [ATTEMPT_DIALING] = TO(ATTEMPT_DIALING) | TO(ATTEMPT_PROVEN),
            [ATTEMPT_PROVEN] = TO(ATTEMPT_DIALING),
        },
};

/* ---- the table ---- */

static char *copy_text(const char *text)
{
    char *copy = strdup(text);
    ENSURE(copy);
    return copy;
}

void logins_init(struct logins *logins, struct pools *pools)
{
    *logins = (struct logins){.pools = pools};
    list_init(&logins->attempts);
}

static void attempt_move(struct attempt *a, enum attempt_state to)
{
    struct logins *logins = a->logins;
    logins->dialing += to == ATTEMPT_DIALING;
    logins->dialing -= a->state == ATTEMPT_DIALING;
    STATE_MOVE(&states, a->state, to);
}

static void attempt_free(struct attempt *a)
{
    ENSURE(list_empty(&a->members));
    a->logins->dialing -= a->state == ATTEMPT_DIALING;
    list_remove(&a->node);
    if (a->upstream)
        upstream_close(a->upstream);
    identity_clear(&a->identity);
    secret_wipe(&a->password);
    free(a->vhost);
    free(a);
}

void logins_deinit(struct logins *logins)
{
    struct list *next;
    for (struct list *n = logins->attempts.next; n != &logins->attempts; n = next) {
        next = n->next;
        attempt_free(LIST_ENTRY(n, struct attempt, node));
    }
}

static bool same_vhost(const struct attempt *a, const char *vhost)
{
    return a->vhost && vhost ? strcmp(a->vhost, vhost) == 0 : a->vhost == vhost;
}

static struct attempt *find(const struct member *m, const char *vhost)
{
    const struct list *all = &m->logins->attempts;
    for (struct list *n = all->next; n != all; n = n->next) {
        struct attempt *a = LIST_ENTRY(n, struct attempt, node);
        if (same_vhost(a, vhost) && strcmp(a->identity.dial_user, m->identity.dial_user) == 0 &&
            secret_is(a->password, m->password))
            return a;
    }
    return NULL;
}

static struct attempt *attempt_new(struct member *m, const char *vhost)
{
    struct attempt *a = calloc(1, sizeof *a);
    ENSURE(a);
    a->logins = m->logins;
    a->password = copy_text(m->password);
    a->vhost = vhost ? copy_text(vhost) : NULL;
    identity_init(&a->identity, m->user, m->password);
    list_init(&a->members);
    list_append(&m->logins->attempts, &a->node);
    return a;
}

/* ---- what the members hear ---- */

static void wait_for(struct member *m, struct attempt *a)
{
    m->attempt = a;
    list_append(&a->members, &m->node);
}

static struct member *next_member(struct attempt *a)
{
    struct list *node = list_first(&a->members);
    if (!node)
        return NULL;
    struct member *m = LIST_ENTRY(node, struct member, node);
    list_remove(&m->node);
    m->attempt = NULL;
    return m;
}

static void refuse(struct member *m, uint16_t code, const char *text)
{
    if (code == 403 || code == 530) {
        m->logins->pools->rt->counters.login_refused++;
        LOG_OFTEN(LOG_WARN, "login_refused", LOG_T("user", m->user), LOG_T("vhost", m->vhost),
                  LOG_N("client", m->id), LOG_T("peer", m->peer), LOG_N("code", code),
                  LOG_T("reason", text));
    }
    m->events->on_refused(m, code, text);
}

static void refuse_all(struct attempt *a, uint16_t code, const char *text)
{
    struct member *m;
    while ((m = next_member(a)) != NULL)
        refuse(m, code, text);
}

/* Of the vhost that the client has named, or of any before it has named one. */
static struct pool *find_pool(struct member *m)
{
    return pool_find(m->logins->pools, &m->identity, m->password, m->vhost);
}

static bool is_known(const struct pool *pool)
{
    return pool && pool_state_is_accepted(pool);
}

/* RabbitMQ may be asked later. */
static bool may_come_in(const struct runtime *rt, const struct pool *pool)
{
    return runtime_buffers(rt) && is_known(pool);
}

static bool may_be_unverified(const struct runtime *rt, const struct pool *pool)
{
    return rt->config->spool.unverified_logins == LOGINS_ACCEPT &&
           !(pool && pool_state_is_refused(pool));
}

/* P6: RabbitMQ cannot be asked. */
static void decide_unreachable(struct member *m)
{
    struct runtime *rt = m->logins->pools->rt;
    bool proving = !m->vhost;
    struct pool *pool = find_pool(m);
    if (!runtime_buffers(rt) && !proving) {
        refuse(m, 320, LOST_RABBITMQ);
    } else if (runtime_buffers(rt) && !is_known(pool) && !may_be_unverified(rt, pool)) {
        refuse(m, 403, "ACCESS_REFUSED - upstream unavailable and this login is not known");
    } else if (proving) {
        m->events->on_proven(m);
    } else {
        if (!pool)
            pool = pool_new(m->logins->pools, &m->identity, m->password, m->vhost, LOGIN_UNKNOWN);
        admission_enter_offline(pool, m);
    }
}

/* RabbitMQ is there, but allows no further connection of this login. */
static void decide_limit(struct member *m, const struct upstream_end *end)
{
    if (may_come_in(m->logins->pools->rt, find_pool(m)))
        decide_unreachable(m);
    else
        refuse(m, end->code, end->text);
}

/* ---- dialing ---- */

static const struct upstream_events events;

static void dial(struct attempt *a)
{
    attempt_move(a, ATTEMPT_DIALING);
    if (a->tried == 0)
        a->begun_ms = runtime_now(a->logins->pools->rt);
    a->upstream = upstream_dial(a->logins->pools->upstreams, a->identity.dial_user, a->password,
                                a->vhost, NULL, 0, &events, a);
}

/* A known login is not tried while others try RabbitMQ all the time, each broker in its turn; an
 * unknown one has nobody who tries it, but all of them together are no reason to dial without end.
 */
static uint64_t news_ms(const struct pools *pools, bool known)
{
    const struct config *config = pools->rt->config;
    uint64_t turn_ms =
        (uint64_t)pools->upstreams->targets.count * config->upstream.connect_timeout_ms;
    return known ? config->upstream.reconnect_max_ms * 2 + turn_ms
                 : config->upstream.reconnect_min_ms;
}

static bool is_away(const struct pools *pools, bool known)
{
    return pools->rt->counters.upstreams == 0 &&
           targets_are_away(&pools->upstreams->targets, runtime_now(pools->rt),
                            news_ms(pools, known));
}

static bool is_away_for(const struct logins *logins, const struct pool *pool)
{
    const struct pools *pools = logins->pools;
    return is_away(pools, is_known(pool)) ||
           (may_come_in(pools->rt, pool) && pool_state_is_away(pool, news_ms(pools, true)));
}

bool login_is_possible(const struct logins *logins)
{
    return !list_empty(&logins->pools->queues.all) || !is_away(logins->pools, true);
}

static struct attempt *next_queued(const struct logins *logins)
{
    if (logins->dialing >= DIALS_MAX || !runtime_serves(logins->pools->rt))
        return NULL;
    for (struct list *n = logins->attempts.next; n != &logins->attempts; n = n->next)
        if (LIST_ENTRY(n, struct attempt, node)->state == ATTEMPT_QUEUED)
            return LIST_ENTRY(n, struct attempt, node);
    return NULL;
}

/* Those that have waited until RabbitMQ was found to be away do not wait for a dial of their own.
 */
static void dial_queued(struct logins *logins)
{
    struct attempt *a;
    while ((a = next_queued(logins)) != NULL) {
        struct member *m = is_away(logins->pools, false) ? next_member(a) : NULL;
        if (m)
            decide_unreachable(m);
        else if (list_empty(&a->members))
            attempt_free(a);
        else
            dial(a);
    }
}

/* All is said; another one may dial. */
static void finish(struct attempt *a)
{
    struct logins *logins = a->logins;
    attempt_free(a);
    dial_queued(logins);
}

static void on_tuned(struct upstream *u)
{
    struct attempt *a = u->owner;
    struct logins *logins = a->logins;
    attempt_move(a, ATTEMPT_PROVEN);
    if (list_empty(&a->members)) {
        finish(a);
        return;
    }
    /* A member that has sent connection.open already uses the upstream up, and ends the attempt
     * or gives it a vhost: the others wait in a list of their own. */
    struct list members;
    list_init(&members);
    struct member *m;
    while ((m = next_member(a)) != NULL)
        list_append(&members, &m->node);
    struct list *node;
    while ((node = list_first(&members)) != NULL) {
        list_remove(node);
        m = LIST_ENTRY(node, struct member, node);
        m->events->on_proven(m);
    }
    dial_queued(logins);
}

static void on_open(struct upstream *u)
{
    struct attempt *a = u->owner;
    a->upstream = NULL;
    struct pool *pool = pool_prove(a->logins->pools, &a->identity, a->password, a->vhost);
    pool_adopt(pool, u);
    struct member *m;
    while ((m = next_member(a)) != NULL)
        admission_enter(pool, m);
    finish(a);
}

/* Who is let in without RabbitMQ waits for one broker that does not answer, not for all. */
static void let_known_in(struct attempt *a)
{
    const struct runtime *rt = a->logins->pools->rt;
    struct list members;
    struct list *node;
    struct member *m;
    if (runtime_now(rt) - a->begun_ms < rt->config->upstream.connect_timeout_ms)
        return;
    list_init(&members);
    while ((m = next_member(a)) != NULL)
        list_append(&members, &m->node);
    while ((node = list_first(&members)) != NULL) {
        list_remove(node);
        m = LIST_ENTRY(node, struct member, node);
        struct pool *pool = find_pool(m);
        if (may_come_in(rt, pool)) {
            pool_state_note_away(pool, true);
            decide_unreachable(m);
        } else {
            wait_for(m, a);
        }
    }
}

static bool has_another_broker(struct attempt *a)
{
    return ++a->tried < a->logins->pools->upstreams->targets.count &&
           runtime_serves(a->logins->pools->rt);
}

static void on_failed(struct upstream *u, const struct upstream_end *end)
{
    struct attempt *a = u->owner;
    struct member *m;
    a->upstream = NULL;
    if (a->state == ATTEMPT_PROVEN) { /* nobody has named a vhost in time */
        finish(a);
        return;
    }
    if (end->refusal == REFUSAL_NONE && has_another_broker(a)) {
        let_known_in(a);
        if (!list_empty(&a->members)) {
            dial(a);
            return;
        }
    }
    if (end->refusal == REFUSAL_LOGIN) {
        pool_disprove(a->logins->pools, &a->identity, a->password, a->vhost, end);
        refuse_all(a, end->code, end->text);
    }
    while ((m = next_member(a)) != NULL)
        if (end->refusal == REFUSAL_LIMIT)
            decide_limit(m, end);
        else
            decide_unreachable(m);
    finish(a);
}

static void on_nothing(struct upstream *u)
{
    (void)u;
}

static const struct upstream_events events = {
    .on_tuned = on_tuned,
    .on_open = on_open,
    .on_failed = on_failed,
    .on_blocked = on_nothing,
    .on_writable = on_nothing,
};

/* ---- members ---- */

static void ask(struct member *m, const char *vhost)
{
    struct attempt *a = find(m, vhost);
    if (!a)
        a = attempt_new(m, vhost);
    ENSURE(a->state != ATTEMPT_PROVEN);
    wait_for(m, a);
    dial_queued(m->logins);
}

/* RabbitMQ has accepted it a moment ago, and no vhost has been named yet. */
static bool is_just_proven(struct member *m)
{
    const struct attempt *a = find(m, NULL);
    return a && a->state == ATTEMPT_PROVEN;
}

void login_begin(struct member *m)
{
    struct pool *pool = find_pool(m);
    if ((pool && password_vouches(pool, &m->identity, m->password)) || is_just_proven(m))
        m->events->on_proven(m);
    else if (is_away_for(m->logins, pool))
        decide_unreachable(m);
    else
        ask(m, NULL);
}

void login_enter(struct member *m)
{
    struct pool *pool = find_pool(m);
    if (pool && password_vouches(pool, &m->identity, m->password)) {
        admission_enter(pool, m);
        return;
    }
    struct attempt *proven = find(m, NULL);
    if (proven && proven->state == ATTEMPT_PROVEN && !find(m, m->vhost)) {
        proven->vhost = copy_text(m->vhost);
        attempt_move(proven, ATTEMPT_DIALING);
        wait_for(m, proven);
        upstream_enter(proven->upstream, m->vhost);
    } else if (is_away_for(m->logins, pool)) {
        decide_unreachable(m);
    } else {
        ask(m, m->vhost);
    }
}

void login_leave(struct member *m)
{
    struct attempt *a = m->attempt;
    if (!a)
        return;
    list_remove(&m->node);
    m->attempt = NULL;
    if (a->state == ATTEMPT_QUEUED && list_empty(&a->members))
        attempt_free(a);
}
