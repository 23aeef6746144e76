#include "pool/doubt.h"

#include <stdlib.h>

#include "amqp/destination.h"
#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "base/states.h"
#include "drain/drain.h"
#include "peer/runtime.h"
#include "pool/append.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "spooler/job.h"
#include "spooler/spooler.h"

enum doubt_state {
    DOUBT_APPENDING, /* the copy is on its way to the spool */
    DOUBT_STORED,
    DOUBT_FAILED,    /* there is no copy; its publisher was told */
    DOUBT_CONFIRMED, /* before the copy was stored: it is deleted at once */
    DOUBT_DELETING,
};

static const struct states states = {
    .object = "publish in doubt",
    .names = {[DOUBT_APPENDING] = "appending",
              [DOUBT_STORED] = "stored",
              [DOUBT_FAILED] = "failed",
              [DOUBT_CONFIRMED] = "confirmed",
              [DOUBT_DELETING] = "deleting"},
    .next =
        {
            [DOUBT_APPENDING] = TO(DOUBT_STORED) | TO(DOUBT_FAILED) | TO(DOUBT_CONFIRMED),
            [DOUBT_STORED] = TO(DOUBT_DELETING),
            [DOUBT_CONFIRMED] = TO(DOUBT_STORED) | TO(DOUBT_FAILED),
        },
};

struct doubt {
    uint64_t handle;
    uint64_t queue; /* handle */
    uint64_t destination;
    uint64_t seq;
    enum doubt_state state;
};

static void doubt_move(struct doubt *d, enum doubt_state to)
{
    STATE_MOVE(&states, d->state, to);
}

static void end(struct doubt *d)
{
    struct queue *queue = handles_get(d->queue);
    uint64_t destination = d->destination;
    handles_remove(d->handle);
    free(d);
    if (!queue || !doubts_remove(&queue->backlog.doubts, destination))
        return;
    if (queue->backlog.drain)
        drain_more(queue->backlog.drain);
    queue_changed(queue);
}

static void on_deleted(struct job *job)
{
    struct queue *queue = handles_get(job->context);
    struct doubt *d = handles_get(job->owner);
    if (job->status != STATUS_OK) /* it is sent again */
        LOG(LOG_ERROR, "delete_failed", LOG_N("queue", job->queue), LOG_T("reason", job->error));
    if (queue && job->status == STATUS_OK) {
        queue->backlog.waiting--;
        queue->backlog.drained++;
        queue->rt->counters.drained++;
        if (queue->backlog.doubts.records > 0)
            queue->backlog.doubts.records--;
    }
    if (d)
        end(d);
}

static void delete_copy(struct doubt *d)
{
    struct queue *queue = handles_get(d->queue);
    if (!queue) {
        end(d);
        return;
    }
    struct job *job = job_new(JOB_DELETE, queue->backlog.id, on_deleted, d->handle);
    job->context = d->queue;
    job->delete.seqs = malloc(sizeof *job->delete.seqs);
    ENSURE(job->delete.seqs);
    job->delete.seqs[0] = d->seq;
    job->delete.count = 1;
    doubt_move(d, DOUBT_DELETING);
    spooler_post(queue->rt->spooler, job);
}

void doubt_confirmed(struct doubt *d)
{
    if (d->state == DOUBT_APPENDING)
        doubt_move(d, DOUBT_CONFIRMED);
    else if (d->state == DOUBT_STORED)
        delete_copy(d);
    else
        end(d);
}

void doubt_lost(struct doubt *d)
{
    end(d);
}

static void copied(uint64_t handle, bool stored, uint64_t seq)
{
    struct doubt *d = handles_get(handle);
    if (!d)
        return;
    bool confirmed = d->state == DOUBT_CONFIRMED;
    d->seq = seq;
    doubt_move(d, stored ? DOUBT_STORED : DOUBT_FAILED);
    if (confirmed)
        doubt_confirmed(d);
}

struct doubt *doubt_new(struct pool *pool, struct publisher owner, struct message *message,
                        uint64_t client_tag)
{
    struct doubt *d = calloc(1, sizeof *d);
    ENSURE(d);
    d->handle = handles_add(d);
    d->queue = pool->queue->handle;
    d->destination = destination_of(message->method.at, message->method.len);
    doubts_add(&pool->queue->backlog.doubts, d->destination);
    append_copy(pool, owner, message, client_tag, copied, d->handle);
    return d;
}
