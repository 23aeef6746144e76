#include "pool/password.h"

#include <string.h>

#include "base/log.h"
#include "peer/runtime.h"
#include "pool/connections.h"
#include "pool/member.h"
#include "pool/pool_state.h"

bool password_vouches(struct pool *pool, const struct identity *id, const char *password)
{
    if (pool->login != LOGIN_PROVEN || identity_has_expired(id) || !connections_are_open(pool))
        return false;
    return secrets_vouch(&pool->secrets, password, runtime_now(pool->rt));
}

static void replace(struct pool *pool, const struct identity *id, const char *password)
{
    secrets_replace(&pool->secrets, password, pool->login == LOGIN_PROVEN, runtime_now(pool->rt));
    pool->expires_s = id->expires_s;
    pool->rights = id->rights;
    pool->queue->has_tokens = pool->queue->has_tokens || pool->rights;
}

bool password_take(struct pool *pool, const struct identity *id, const char *password)
{
    if (secret_is(pool->secrets.current, password))
        return false;
    bool is_shorter = pool->login == LOGIN_PROVEN && id->rights == pool->rights &&
                      id->expires_s < pool->expires_s;
    if (is_shorter)
        secrets_remember(&pool->secrets, password, runtime_now(pool->rt));
    else
        replace(pool, id, password);
    return !is_shorter;
}

void password_tell(struct pool *pool)
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

static const char *next_best(const struct pool *pool, uint64_t *expires_s)
{
    const char *best = NULL;
    *expires_s = 0;
    for (unsigned i = 0; i < SECRETS_OTHERS; i++) {
        const char *other = pool->secrets.others[i].password;
        if (!other)
            continue;
        struct identity id;
        identity_init(&id, pool->dial_user, other);
        bool is_good = id.rights == pool->rights && !identity_has_expired(&id);
        if (is_good && id.expires_s > *expires_s) {
            best = other;
            *expires_s = id.expires_s;
        }
        identity_clear(&id);
    }
    return best;
}

bool password_fall_back(struct pool *pool)
{
    uint64_t expires_s;
    const char *best = pool->rights ? next_best(pool, &expires_s) : NULL;
    if (!best)
        return false;
    char *password = NULL;
    secret_set(&password, best); /* it is about to be taken from the others */
    secrets_replace(&pool->secrets, password, false, runtime_now(pool->rt));
    secret_wipe(&password);
    pool->expires_s = expires_s;
    return true;
}

/* ---- new ones ---- */

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

static void decide(struct pool *pool, const char *secret, enum secret_verdict verdict)
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
    bool known = password_vouches(pool, &id, secret);
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

/* While RabbitMQ is away the client hears yes, and the next connection decides. */
void password_ask(struct pool *pool)
{
    struct member *m;
    while (!is_asking(pool) && (m = next_asker(pool)) != NULL) {
        enum secret_verdict verdict = judge_secret(pool, m->new_secret);
        if (verdict == SECRET_OPEN) {
            secret_set(&pool->secrets.candidate, m->new_secret);
            bool away = list_empty(&pool->upstreams) && !pool_state_is_refused(pool);
            if (!away && runtime_serves(pool->rt)) {
                connections_dial(pool);
                return;
            }
            verdict = SECRET_ACCEPTED;
        }
        char *secret = NULL;
        secret_set(&secret, m->new_secret);
        decide(pool, secret, verdict);
        secret_wipe(&secret);
    }
}

bool password_is_candidate(const struct pool *pool, const struct upstream *u)
{
    return secrets_is_candidate(&pool->secrets, u->password);
}

bool password_is_elsewhere(struct pool *pool, const struct upstream *u)
{
    if (!password_is_candidate(pool, u) || judge_secret(pool, u->password) != SECRET_ELSEWHERE)
        return false;
    secret_wipe(&pool->secrets.candidate);
    decide(pool, u->password, SECRET_ELSEWHERE);
    return true;
}

void password_adopt(struct pool *pool, const char *secret)
{
    struct identity id;
    identity_init(&id, pool->dial_user, secret);
    password_take(pool, &id, secret);
    identity_clear(&id);
    secret_wipe(&pool->secrets.candidate);
    password_tell(pool);
    decide(pool, secret, SECRET_ACCEPTED);
}

void password_refused(struct pool *pool, const struct upstream *u, const struct upstream_end *end)
{
    LOG_OFTEN(LOG_WARN, "secret_refused", LOG_T("user", pool->user), LOG_T("vhost", pool->vhost),
              LOG_N("code", end->code), LOG_T("reason", end->text));
    if (password_is_candidate(pool, u)) {
        secret_wipe(&pool->secrets.candidate);
        decide(pool, u->password, pool->rights ? SECRET_REFUSED : SECRET_ACCEPTED);
    }
    password_ask(pool);
    connections_want(pool);
}

void password_undecided(struct pool *pool, const struct upstream *u)
{
    decide(pool, u->password, SECRET_ACCEPTED);
    password_ask(pool);
}
