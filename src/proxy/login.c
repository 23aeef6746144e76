#include "proxy/login.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "proxy/client.h"
#include "proxy/handshake.h"
#include "proxy/identity.h"
#include "proxy/pool.h"
#include "proxy/runtime.h"
#include "proxy/upstream.h"
#include "spool/credential.h"

/* Happy path: an attempt dials without a vhost; RabbitMQ tunes, so the login is good, and the
 * clients that wait for it go on. Its upstream waits for the first that names a vhost, opens that,
 * and becomes the pool's. A login that a connected pool knows is not asked about at all.
 *
 * What can fail: RabbitMQ refuses (its words go to the clients), or is not there (P6 decides: who
 * was proven before is let in). While it is known to be away it is tried for unknown logins every
 * upstream.reconnect_min and no oftener, however many there are. */

enum { DIALS_MAX = 32 };

enum attempt_state {
    ATTEMPT_QUEUED,  /* waits for its turn to dial */
    ATTEMPT_DIALING, /* RabbitMQ is being asked: about the vhost too, if there is one */
    ATTEMPT_PROVEN,  /* its upstream waits for a vhost */
};

struct attempt {
    struct pools *pools;
    struct list node; /* in logins.attempts */
    enum attempt_state state;
    struct identity identity;
    char *password, *vhost; /* vhost NULL: which one is not known yet */
    struct upstream *upstream;
    struct list clients;
    unsigned tried; /* brokers */
};

/* ---- the table ---- */

static char *copy_text(const char *text)
{
    char *copy = strdup(text);
    ENSURE(copy);
    return copy;
}

void logins_init(struct logins *logins)
{
    *logins = (struct logins){0};
    list_init(&logins->attempts);
}

static void set_state(struct attempt *a, enum attempt_state state)
{
    struct logins *logins = &a->pools->logins;
    logins->dialing += state == ATTEMPT_DIALING;
    logins->dialing -= a->state == ATTEMPT_DIALING;
    a->state = state;
}

static void attempt_free(struct attempt *a)
{
    ENSURE(list_empty(&a->clients));
    set_state(a, ATTEMPT_QUEUED);
    list_remove(&a->node);
    if (a->upstream)
        upstream_close(a->upstream);
    identity_clear(&a->identity);
    credential_wipe(a->password, strlen(a->password));
    free(a->password);
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

static struct attempt *find(struct client *c, const char *vhost)
{
    const struct list *all = &c->clients->pools->logins.attempts;
    for (struct list *n = all->next; n != all; n = n->next) {
        struct attempt *a = LIST_ENTRY(n, struct attempt, node);
        if (same_vhost(a, vhost) && strcmp(a->identity.dial_user, c->identity.dial_user) == 0 &&
            credential_equal((const uint8_t *)a->password, strlen(a->password),
                             (const uint8_t *)c->password, strlen(c->password)))
            return a;
    }
    return NULL;
}

static struct attempt *attempt_new(struct client *c, const char *vhost)
{
    struct attempt *a = calloc(1, sizeof *a);
    ENSURE(a);
    a->pools = c->clients->pools;
    a->password = copy_text(c->password);
    a->vhost = vhost ? copy_text(vhost) : NULL;
    identity_init(&a->identity, c->user, c->password);
    list_init(&a->clients);
    list_append(&c->clients->pools->logins.attempts, &a->node);
    return a;
}

/* ---- what the clients hear ---- */

static struct client *next_client(struct attempt *a)
{
    struct list *node = list_first(&a->clients);
    if (!node)
        return NULL;
    struct client *c = LIST_ENTRY(node, struct client, pool_node);
    list_remove(&c->pool_node);
    c->attempt = NULL;
    return c;
}

static void refuse(struct client *c, uint16_t code, const char *text)
{
    if (code == 403 || code == 530) {
        c->rt->counters.login_refused++;
        LOG_OFTEN(LOG_WARN, "login_refused", LOG_T("user", c->user), LOG_T("vhost", c->vhost),
                  LOG_N("client", c->id), LOG_T("peer", c->peer), LOG_N("code", code),
                  LOG_T("reason", text));
    }
    if (c->state == CLIENT_PROVING)
        handshake_refuse(c, code, text);
    else
        client_refuse(c, code, text, AMQP_CONNECTION_OPEN_METHOD);
}

static void refuse_all(struct attempt *a, uint16_t code, const char *text)
{
    struct client *c;
    while ((c = next_client(a)) != NULL)
        refuse(c, code, text);
}

/* Of the vhost that the client has named, or of any before it has named one. */
static struct pool *find_pool(struct client *c)
{
    return pool_find(c->clients->pools, &c->identity, c->password,
                     c->state == CLIENT_PROVING ? NULL : c->vhost);
}

static bool is_known(const struct pool *pool)
{
    return pool && pool->login == LOGIN_PROVEN;
}

static bool may_be_unverified(const struct runtime *rt, const struct pool *pool)
{
    return rt->config->spool.unverified_logins == LOGINS_ACCEPT &&
           !(pool && pool->login == LOGIN_REFUSED);
}

/* P6: RabbitMQ cannot be asked. */
static void decide_unreachable(struct client *c)
{
    struct runtime *rt = c->rt;
    bool proving = c->state == CLIENT_PROVING;
    struct pool *pool = find_pool(c);
    if (!runtime_buffers(rt) && !proving) {
        refuse(c, 320, LOST_RABBITMQ);
    } else if (runtime_buffers(rt) && !is_known(pool) && !may_be_unverified(rt, pool)) {
        refuse(c, 403, "ACCESS_REFUSED - upstream unavailable and this login is not known");
    } else if (proving) {
        handshake_proven(c);
    } else {
        if (!pool)
            pool = pool_new(c->clients->pools, &c->identity, c->password, c->vhost, LOGIN_UNKNOWN);
        pool_enter_offline(pool, c);
    }
}

/* RabbitMQ is there, but allows no further connection of this login. */
static void decide_limit(struct client *c, const struct upstream_end *end)
{
    if (!is_known(find_pool(c)) || !runtime_buffers(c->rt))
        refuse(c, end->code, end->text);
    else
        decide_unreachable(c);
}

/* ---- dialing ---- */

static const struct upstream_events events;

static void dial(struct attempt *a)
{
    set_state(a, ATTEMPT_DIALING);
    a->upstream = upstream_dial(a->pools->upstreams, a->identity.dial_user, a->password, a->vhost,
                                NULL, 0, &events, a);
}

/* A known login is not tried while others try RabbitMQ all the time; an unknown one has nobody who
 * tries it, but all of them together are no reason to dial without end. */
static bool is_away(const struct pools *pools, bool known)
{
    const struct config *config = pools->rt->config;
    uint64_t within =
        known ? config->upstream.reconnect_max_ms * 2 + config->upstream.connect_timeout_ms
              : config->upstream.reconnect_min_ms;
    return pools->rt->counters.upstreams == 0 &&
           targets_are_away(&pools->upstreams->targets, runtime_now(pools->rt), within);
}

bool login_is_possible(const struct pools *pools)
{
    return !list_empty(&pools->queues) || !is_away(pools, true);
}

static struct attempt *next_queued(struct pools *pools)
{
    const struct logins *logins = &pools->logins;
    if (logins->dialing >= DIALS_MAX || !runtime_serves(pools->rt))
        return NULL;
    for (struct list *n = logins->attempts.next; n != &logins->attempts; n = n->next)
        if (LIST_ENTRY(n, struct attempt, node)->state == ATTEMPT_QUEUED)
            return LIST_ENTRY(n, struct attempt, node);
    return NULL;
}

/* Those that have waited until RabbitMQ was found to be away do not wait for a dial of their own.
 */
static void dial_queued(struct pools *pools)
{
    struct attempt *a;
    while ((a = next_queued(pools)) != NULL) {
        struct client *c = is_away(pools, false) ? next_client(a) : NULL;
        if (c)
            decide_unreachable(c);
        else if (list_empty(&a->clients))
            attempt_free(a);
        else
            dial(a);
    }
}

/* All is said; another one may dial. */
static void finish(struct attempt *a)
{
    struct pools *pools = a->pools;
    attempt_free(a);
    dial_queued(pools);
}

static void on_tuned(struct upstream *u)
{
    struct attempt *a = u->owner;
    struct pools *pools = a->pools;
    set_state(a, ATTEMPT_PROVEN);
    if (list_empty(&a->clients)) {
        finish(a);
        return;
    }
    /* A client that has sent connection.open already uses the upstream up, and ends the attempt
     * or gives it a vhost: the others wait in a list of their own. */
    struct list clients;
    list_init(&clients);
    struct client *c;
    while ((c = next_client(a)) != NULL)
        list_append(&clients, &c->pool_node);
    struct list *node;
    while ((node = list_first(&clients)) != NULL) {
        list_remove(node);
        handshake_proven(LIST_ENTRY(node, struct client, pool_node));
    }
    dial_queued(pools);
}

static void on_open(struct upstream *u)
{
    struct attempt *a = u->owner;
    a->upstream = NULL;
    struct pool *pool = pool_prove(a->pools, &a->identity, a->password, a->vhost);
    pool_adopt(pool, u);
    struct client *c;
    while ((c = next_client(a)) != NULL)
        pool_enter(pool, c);
    finish(a);
}

static void on_failed(struct upstream *u, const struct upstream_end *end)
{
    struct attempt *a = u->owner;
    struct client *c;
    a->upstream = NULL;
    if (a->state == ATTEMPT_PROVEN) { /* nobody has named a vhost in time */
        finish(a);
        return;
    }
    if (end->refusal == REFUSAL_NONE && ++a->tried < a->pools->upstreams->targets.count &&
        runtime_serves(a->pools->rt) && !list_empty(&a->clients)) {
        dial(a);
        return;
    }
    if (end->refusal == REFUSAL_LOGIN) {
        pool_disprove(a->pools, &a->identity, a->password, a->vhost, end);
        refuse_all(a, end->code, end->text);
    }
    while ((c = next_client(a)) != NULL)
        if (end->refusal == REFUSAL_LIMIT)
            decide_limit(c, end);
        else
            decide_unreachable(c);
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

/* ---- clients ---- */

static void wait_for(struct client *c, struct attempt *a)
{
    c->attempt = a;
    list_append(&a->clients, &c->pool_node);
}

static void ask(struct client *c, const char *vhost)
{
    struct attempt *a = find(c, vhost);
    if (!a)
        a = attempt_new(c, vhost);
    ENSURE(a->state != ATTEMPT_PROVEN);
    wait_for(c, a);
    dial_queued(c->clients->pools);
}

/* RabbitMQ has accepted it a moment ago, and no vhost has been named yet. */
static bool is_just_proven(struct client *c)
{
    const struct attempt *a = find(c, NULL);
    return a && a->state == ATTEMPT_PROVEN;
}

void login_begin(struct client *c)
{
    struct pool *pool = find_pool(c);
    if ((pool && pool_vouches(pool, &c->identity, c->password)) || is_just_proven(c))
        handshake_proven(c);
    else if (is_away(c->clients->pools, is_known(pool)))
        decide_unreachable(c);
    else
        ask(c, NULL);
}

void login_enter(struct client *c)
{
    struct pool *pool = find_pool(c);
    if (pool && pool_vouches(pool, &c->identity, c->password)) {
        pool_enter(pool, c);
        return;
    }
    struct attempt *proven = find(c, NULL);
    if (proven && proven->state == ATTEMPT_PROVEN && !find(c, c->vhost)) {
        proven->vhost = copy_text(c->vhost);
        set_state(proven, ATTEMPT_DIALING);
        wait_for(c, proven);
        upstream_enter(proven->upstream, c->vhost);
    } else if (is_away(c->clients->pools, is_known(pool))) {
        decide_unreachable(c);
    } else {
        ask(c, c->vhost);
    }
}

void login_leave(struct client *c)
{
    struct attempt *a = c->attempt;
    if (!a)
        return;
    list_remove(&c->pool_node);
    c->attempt = NULL;
    if (a->state == ATTEMPT_QUEUED && list_empty(&a->clients))
        attempt_free(a);
}
