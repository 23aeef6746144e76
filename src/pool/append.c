#include "pool/append.h"

#include <stdio.h>
#include <string.h>

#include "amqp/destination.h"
#include "base/assert.h"
#include "base/crash_point.h"
#include "base/handles.h"
#include "base/log.h"
#include "drain/drain.h"
#include "peer/runtime.h"
#include "pool/pool.h"
#include "pool/pool_state.h"
#include "pool/queue.h"
#include "pool/rejected_bound.h"

/* Happy path: the job goes to the spooler; after the commit the queue has one more record, and the
 * publisher is told. If it cannot be stored (disk or map full), the publisher hears that. */

static void log_failed(const struct queue *queue, const struct job *job)
{
    LOG_OFTEN(LOG_ERROR, "spool_failed", LOG_T("user", queue->user), LOG_T("vhost", queue->vhost),
              LOG_N("messages", job->append.count), LOG_T("reason", job->error));
}

static void log_rejected(const struct queue *queue, const struct job *job)
{
    if (job->status != STATUS_OK)
        log_failed(queue, job);
    else
        LOG_OFTEN(LOG_WARN, "message_rejected", LOG_T("user", queue->user),
                  LOG_T("vhost", queue->vhost), LOG_N("seq", job->append.last_seq),
                  LOG_N("code", job->append.rejection.code),
                  LOG_T("reason", job->append.rejection_text));
}

static void on_rejected(struct job *job)
{
    struct queue *queue = handles_get(job->append.queue);
    if (queue && job->status == STATUS_OK) {
        queue->backlog.rejected++;
        counters_add_rejected(&queue->rt->counters, job->append.rejection.code);
        rejected_bound_look(queue, false);
    }
    if (queue)
        log_rejected(queue, job);
    job->append.told(job);
}

/* Unless a destination came back meanwhile: then all is counted anew. */
static void count_behind_doubts(struct queue *queue, const struct job *job)
{
    if (job->append.pass != queue->backlog.doubts.pass)
        return;
    queue->backlog.doubts.appending -= job->append.count;
    if (job->status == STATUS_OK)
        queue->backlog.doubts.records += job->append.count;
}

static void on_appended(struct job *job)
{
    CRASH_POINT("before_ack");
    struct queue *queue = handles_get(job->append.queue);
    if (queue) {
        queue->appending -= job->append.count;
        count_behind_doubts(queue, job);
        if (job->status == STATUS_OK) {
            queue->backlog.waiting += job->append.count;
            queue->rt->counters.spooled += job->append.count;
            if (job->append.declared)
                declared_add(&queue->backlog.declared, job->append.declared);
        } else {
            log_failed(queue, job);
        }
    }
    if (job->append.copied)
        job->append.copied(job->append.doubt, job->status == STATUS_OK, job->append.last_seq);
    job->append.told(job);
    if (queue) {
        if (queue->backlog.drain && job->status == STATUS_OK)
            drain_appended(queue->backlog.drain, job);
        queue_changed(queue);
    }
}

static void post(struct pool *pool, struct job *job)
{
    struct queue *queue = pool->queue;
    job->append.queue = queue->handle;
    queue->appending += job->append.count;
    pool->pools->events->on_append(job);
    spooler_post(pool->rt->spooler, job);
    pool_state_update(pool);
}

static struct job *new_job(struct pool *pool, struct publisher owner, void (*done)(struct job *))
{
    ENSURE(pool->queue->backlog.id);
    struct job *job = job_new(JOB_APPEND, pool->queue->backlog.id, done, owner.channel);
    job->append.client = owner.client;
    job->append.told = pool->pools->events->on_appended;
    return job;
}

static struct job *new_append(struct pool *pool, struct publisher owner)
{
    return new_job(pool, owner, on_appended);
}

void append_copy(struct pool *pool, struct publisher owner, struct message *message,
                 uint64_t client_tag, void (*copied)(uint64_t doubt, bool stored, uint64_t seq),
                 uint64_t doubt)
{
    struct queue *queue = pool->queue;
    struct job *job = new_append(pool, owner);
    job->context = client_tag;
    job->append.doubt = doubt;
    job->append.copied = copied;
    if (doubts_hold(&queue->backlog.doubts,
                    destination_of(message->method.at, message->method.len))) {
        job->append.pass = queue->backlog.doubts.pass;
        queue->backlog.doubts.appending++;
    }
    job_add_message(job, RECORD_PUBLISH, message);
    post(pool, job);
}

void append_publish(struct pool *pool, struct publisher owner, struct message *message,
                    uint64_t client_tag)
{
    append_copy(pool, owner, message, client_tag, NULL, 0);
}

/* Not counted among what waits: a rejected message is no backlog. */
void append_rejected(struct pool *pool, struct publisher owner, struct message *message,
                     uint16_t code, const char *text)
{
    struct job *job = new_job(pool, owner, on_rejected);
    job->append.queue = pool->queue->handle;
    job->append.rejection_text = strdup(text);
    ENSURE(job->append.rejection_text);
    job->append.rejection = (struct rejection){
        .code = code,
        .text = job->append.rejection_text,
        .text_len = (uint16_t)strlen(text),
        .at_us = job_clock_us(),
    };
    job_add_message(job, RECORD_PUBLISH, message);
    pool->pools->events->on_append(job);
    spooler_post(pool->rt->spooler, job);
}

void append_declaration(struct pool *pool, struct publisher owner, struct slab *slab,
                        const struct frame *frame, uint64_t hash)
{
    struct message message;
    message_init(&message);
    message.method = span_of(slab, frame->payload, frame->payload_len);
    struct job *job = new_append(pool, owner);
    job->append.declared = hash;
    job_add_message(job, RECORD_DECLARE, &message);
    post(pool, job);
}

struct job *append_begin(struct pool *pool, struct publisher owner)
{
    return new_append(pool, owner);
}

void append_transaction(struct pool *pool, struct job *job)
{
    job->append.commit = true;
    post(pool, job);
}
