#include "pool/doubt.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "amqp/destination.h"
#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "base/states.h"
#include "drain/drain.h"
#include "drain/returned.h"
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
    bool mandatory;
    uint64_t header_hash, body_size;
    uint16_t returned; /* reply code of its basic.return, 0: none came */
    char *why;
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
    free(d->why);
    free(d);
    if (!queue || !doubts_remove(&queue->backlog.doubts, destination))
        return;
    if (queue->backlog.drain)
        drain_more(queue->backlog.drain);
    queue_changed(queue);
}

/* The copy no longer waits. */
static void is_out(struct queue *queue)
{
    queue->backlog.waiting--;
    if (queue->backlog.doubts.records > 0)
        queue->backlog.doubts.records--;
}

static void on_deleted(struct job *job)
{
    struct queue *queue = handles_get(job->context);
    struct doubt *d = handles_get(job->owner);
    if (job->status != STATUS_OK) /* it is sent again */
        LOG_OFTEN(LOG_ERROR, "delete_failed", LOG_N("queue", job->queue),
                  LOG_T("reason", job->error));
    if (queue && job->status == STATUS_OK) {
        backlog_note_remains(&queue->backlog, job->delete.seqs, job->delete.stay);
        queue->backlog.drained++;
        queue->rt->counters.drained++;
        is_out(queue);
    }
    if (d)
        end(d);
}

static void on_rejected(struct job *job)
{
    struct queue *queue = handles_get(job->context);
    struct doubt *d = handles_get(job->owner);
    if (job->status != STATUS_OK) /* it is sent again */
        LOG_OFTEN(LOG_ERROR, "reject_failed", LOG_N("queue", job->queue),
                  LOG_T("reason", job->error));
    if (queue && job->status == STATUS_OK) {
        LOG_OFTEN(LOG_WARN, "message_rejected", LOG_T("user", queue->user),
                  LOG_T("vhost", queue->vhost), LOG_N("seq", job->reject.seq),
                  LOG_N("code", job->reject.code), LOG_T("reason", job->reject.text));
        backlog_note_remains(&queue->backlog, &job->reject.seq, job->reject.stays);
        queue->backlog.rejected += !job->reject.stays;
        counters_add_rejected(&queue->rt->counters, job->reject.code);
        is_out(queue);
    }
    if (d)
        end(d);
}

static struct job *delete_job(const struct doubt *d, const struct queue *queue)
{
    struct job *job = job_new(JOB_DELETE, queue->backlog.id, on_deleted, d->handle);
    job->delete.seqs = malloc(sizeof *job->delete.seqs);
    ENSURE(job->delete.seqs);
    job->delete.seqs[0] = d->seq;
    job->delete.count = 1;
    return job;
}

static struct job *reject_job(const struct doubt *d, const struct queue *queue)
{
    struct job *job = job_new(JOB_REJECT, queue->backlog.id, on_rejected, d->handle);
    job->reject.seq = d->seq;
    job->reject.code = d->returned;
    job->reject.text = strdup(d->why);
    ENSURE(job->reject.text);
    return job;
}

static void take_copy_out(struct doubt *d)
{
    struct queue *queue = handles_get(d->queue);
    if (!queue) {
        end(d);
        return;
    }
    struct job *job = d->returned ? reject_job(d, queue) : delete_job(d, queue);
    job->context = d->queue;
    doubt_move(d, DOUBT_DELETING);
    spooler_post(queue->rt->spooler, job);
}

void doubt_confirmed(struct doubt *d)
{
    if (d->state == DOUBT_APPENDING)
        doubt_move(d, DOUBT_CONFIRMED);
    else if (d->state == DOUBT_STORED)
        take_copy_out(d);
    else
        end(d);
}

bool doubt_is_returned(const struct doubt *d, const struct returned *returned,
                       const struct frame *header, bool as_sent)
{
    return d->mandatory && !d->returned && d->destination == returned_destination(returned) &&
           (as_sent ? d->header_hash == XXH3_64bits(header->payload, header->payload_len)
                    : d->body_size == returned_body_size(header));
}

void doubt_note_return(struct doubt *d, uint16_t code, const char *text)
{
    ENSURE(!d->returned);
    d->returned = code;
    d->why = strdup(text);
    ENSURE(d->why);
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
    d->mandatory = message->method.at[message->method.len - 1] & 1;
    d->header_hash = XXH3_64bits(message->header.at, message->header.len);
    d->body_size = message->body_size;
    doubts_add(&pool->queue->backlog.doubts, d->destination);
    append_copy(pool, owner, message, client_tag, copied, d->handle);
    return d;
}
