#include "pool/rejected.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "drain/drain.h"
#include "peer/runtime.h"
#include "pool/queue.h"
#include "spooler/spooler.h"

enum { MOVED_AT_ONCE = 500 };

/* One request; its queue may be gone before it ends. */
struct sweep {
    uint64_t handle, queue;
    enum job_type type;
    uint64_t after, last;
    bool all;
    uint64_t moved;
    rejected_done done;
    uint64_t owner;
};

static void end(struct sweep *sweep, enum status status, const char *text)
{
    struct rejected_result result = {status, sweep->moved, text};
    struct queue *queue = handles_get(sweep->queue);
    if (queue && sweep->moved > 0)
        LOG(LOG_INFO, sweep->type == JOB_RETRY ? "rejected_retried" : "rejected_discarded",
            LOG_T("user", queue->user), LOG_T("vhost", queue->vhost),
            LOG_N("messages", sweep->moved));
    sweep->done(sweep->owner, &result);
    handles_remove(sweep->handle);
    free(sweep);
}

/* A retried message takes a place in the queue, like one that is published. */
static uint64_t places(const struct queue *queue, enum job_type type)
{
    uint64_t room = type == JOB_RETRY ? queue_room(queue) : MOVED_AT_ONCE;
    return room < MOVED_AT_ONCE ? room : MOVED_AT_ONCE;
}

static void on_moved(struct job *job);

static void go_on(struct sweep *sweep)
{
    struct queue *queue = handles_get(sweep->queue);
    if (queue && !runtime_serves(queue->rt)) {
        end(sweep, STATUS_INVALID, "the proxy is stopping");
        return;
    }
    uint64_t max = queue ? places(queue, sweep->type) : 0;
    if (max == 0) {
        end(sweep, queue ? STATUS_FULL : STATUS_NOT_FOUND,
            queue ? "the queue is full (pool.publish_buffer_size)" : "the queue is gone");
        return;
    }
    struct job *job = job_new(sweep->type, queue->backlog.id, on_moved, sweep->handle);
    job->rejected.after = sweep->after;
    job->rejected.last = sweep->last;
    job->rejected.is_one = !sweep->all;
    job->rejected.max = (uint32_t)max;
    spooler_post(queue->rt->spooler, job);
}

/* If a drain has found it, it does not count as waiting any more. */
static void count_damaged(struct backlog *backlog, uint32_t gone)
{
    for (uint32_t i = 0; i < gone; i++) {
        uint64_t *counter = backlog->damaged > 0 ? &backlog->damaged : &backlog->waiting;
        *counter -= *counter > 0;
    }
}

static void count(struct queue *queue, const struct job *job)
{
    uint64_t moved = job->rejected.count - job->rejected.damaged;
    queue->backlog.rejected -= moved < queue->backlog.rejected ? moved : queue->backlog.rejected;
    count_damaged(&queue->backlog, job->rejected.damaged);
    if (job->type == JOB_RETRY)
        queue->backlog.waiting += moved;
    if (queue->backlog.drain)
        drain_more(queue->backlog.drain);
    queue_changed(queue);
    /* With nothing to carry, there may be no connection to RabbitMQ. */
    if (queue->backlog.waiting > 0)
        queue_wants_connection(queue);
}

static void on_moved(struct job *job)
{
    struct sweep *sweep = handles_get(job->owner);
    ENSURE(sweep);
    struct queue *queue = handles_get(sweep->queue);
    /* Of all, those that cannot be moved are passed over, and the end is no error. */
    bool all = sweep->all;
    bool kept = job->status == STATUS_OK || job->status == STATUS_NOT_FOUND ||
                job->status == STATUS_INVALID || job->status == STATUS_FULL;
    if (kept) {
        sweep->moved += job->rejected.count;
        sweep->after = job->rejected.reached;
        sweep->last = job->rejected.last;
        if (queue)
            count(queue, job);
    }
    if (job->status == STATUS_NOT_FOUND && (all || sweep->moved > 0))
        end(sweep, STATUS_OK, "");
    else if (job->status == STATUS_OK || (job->status == STATUS_INVALID && all))
        go_on(sweep);
    else
        end(sweep, job->status, job->error);
}

static void begin(struct queue *queue, enum job_type type, uint64_t seq, rejected_done done,
                  uint64_t owner)
{
    struct sweep *sweep = calloc(1, sizeof *sweep);
    ENSURE(sweep);
    *sweep = (struct sweep){
        .queue = queue->handle,
        .type = type,
        .after = seq ? seq - 1 : 0,
        .last = seq ? seq : UINT64_MAX,
        .all = !seq,
        .done = done,
        .owner = owner,
    };
    sweep->handle = handles_add(sweep);
    go_on(sweep);
}

void rejected_retry(struct queue *queue, uint64_t seq, rejected_done done, uint64_t owner)
{
    begin(queue, JOB_RETRY, seq, done, owner);
}

void rejected_discard(struct queue *queue, uint64_t seq, rejected_done done, uint64_t owner)
{
    begin(queue, JOB_DISCARD, seq, done, owner);
}
