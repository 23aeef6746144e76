#include "pool/admission.h"

#include <string.h>

#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "peer/reply.h"
#include "peer/runtime.h"
#include "pool/connections.h"
#include "pool/member.h"
#include "pool/pool_state.h"
#include "pool/pool_struct.h"
#include "spooler/job.h"
#include "spooler/spooler.h"

void admission_admit(struct pool *pool)
{
    if (pool->storing)
        return;
    struct list *node;
    while ((node = list_first(&pool->waiting)) != NULL) {
        struct member *m = LIST_ENTRY(node, struct member, node);
        list_remove(node);
        m->events->on_admitted(m);
    }
}

void admission_refuse(struct pool *pool, uint16_t code, const char *text)
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

void admission_expel(struct pool *pool, const struct upstream_end *end)
{
    struct list *next;
    for (struct list *n = pool->members.next; n != &pool->members; n = next) {
        struct member *m = LIST_ENTRY(n, struct member, pool_node);
        next = n->next;
        m->events->on_refused(m, end->code, end->text);
    }
}

static void admit_buffered(struct pool *pool)
{
    if (!list_empty(&pool->waiting))
        pool_state_buffers(pool);
    admission_admit(pool);
}

void admission_decide_unreachable(struct pool *pool)
{
    if (pool->storing)
        return;
    bool accept = pool_state_is_accepted(pool) ||
                  (pool->login == LOGIN_UNKNOWN &&
                   pool->rt->config->spool.unverified_logins == LOGINS_ACCEPT);
    if (!runtime_buffers(pool->rt))
        admission_refuse(pool, 320, LOST_RABBITMQ);
    else if (accept)
        admit_buffered(pool);
    else
        admission_refuse(pool, 403,
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
        LOG_OFTEN(LOG_ERROR, "login_not_stored", LOG_T("user", queue->user),
                  LOG_T("vhost", queue->vhost), LOG_T("reason", job->error));
    }
    if (!pool)
        return;
    pool->storing = false;
    if (connections_usable(pool))
        admission_admit(pool);
    else
        admission_decide_unreachable(pool);
    if (job->status == STATUS_OK && pool->login == LOGIN_PROVEN)
        admission_store(pool); /* another password may have been proven meanwhile */
    pool_state_update(pool);
}

void admission_store(struct pool *pool)
{
    struct queue *queue = pool->queue;
    if (!runtime_buffers(pool->rt) || pool->storing ||
        (queue->backlog.id && !queue->dropping && queue->password &&
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

/* ---- the way in, and out ---- */

static void join(struct pool *pool, struct member *m)
{
    member_forget_password(m);
    m->pool = pool;
    pool->client_count++;
    list_append(&pool->members, &m->pool_node);
    list_append(&pool->waiting, &m->node);
}

void admission_enter(struct pool *pool, struct member *m)
{
    join(pool, m);
    connections_want(pool);
    admission_store(pool);
    if (pool->storing)
        return;
    if (connections_are_open(pool))
        admission_admit(pool);
    else
        admission_decide_unreachable(pool);
}

void admission_enter_offline(struct pool *pool, struct member *m)
{
    join(pool, m);
    pool->unreachable = true;
    connections_ensure(pool);
    /* A queue needs a login to go out with; one that is proven is not given up for it. */
    if (pool->login == LOGIN_PROVEN || !pool->queue->password)
        admission_store(pool);
    admission_decide_unreachable(pool);
}

void admission_leave(struct member *m)
{
    struct pool *pool = m->pool;
    m->pool = NULL;
    list_remove(&m->pool_node);
    pool->client_count--;
    if (pool->client_count == 0)
        pool->idle_since_ms = runtime_now(pool->rt);
}
