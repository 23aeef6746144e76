#include "pool/rejected_bound.h"

#include <string.h>

#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "peer/runtime.h"
#include "pool/queue.h"
#include "spooler/spooler.h"

enum { AGAIN_MS = 5000 }; /* after a failure: the file cannot be written, mostly */

static uint64_t excess(const struct queue *queue)
{
    uint64_t limit = queue->rt->config->pool.rejected_size, count = queue->backlog.rejected;
    if (spooler_is_nearly_full(queue->rt->spooler))
        return count;
    return limit > 0 && count > limit ? count - limit : 0;
}

static uint64_t oldest_us(const struct queue *queue)
{
    uint64_t age_us = (uint64_t)queue->rt->config->pool.rejected_age_ms * 1000,
             now_us = job_clock_us();
    return age_us > 0 && now_us > age_us ? now_us - age_us : 0;
}

static void on_trimmed(struct job *job);

/* Those that are too many go from the first on. */
static void trim(struct queue *queue, uint64_t before_us, uint64_t after)
{
    struct job *job = job_new(JOB_TRIM, queue->backlog.id, on_trimmed, queue->handle);
    job->trim.user = strdup(queue->user);
    job->trim.vhost = strdup(queue->vhost);
    ENSURE(job->trim.user && job->trim.vhost);
    job->trim.exports = queue->rt->config->pool.rejected_overflow == REJECTED_TO_FILE;
    job->trim.excess = before_us == 0 || after == 0 ? excess(queue) : 0;
    job->trim.before_us = before_us;
    job->trim.after = after;
    queue->trimming = true;
    spooler_post(queue->rt->spooler, job);
}

static void note_removed(struct queue *queue, const struct job *job)
{
    uint64_t count = job->trim.count;
    struct counters *counters = &queue->rt->counters;
    queue->backlog.rejected -= count < queue->backlog.rejected ? count : queue->backlog.rejected;
    *(job->trim.exports ? &counters->rejected_exported : &counters->rejected_dropped) += count;
    if (count > 0)
        LOG_OFTEN(LOG_WARN, job->trim.exports ? "rejected_exported" : "rejected_dropped",
                  LOG_T("user", queue->user), LOG_T("vhost", queue->vhost),
                  LOG_N("messages", count), LOG_N("left", queue->backlog.rejected));
}

static void on_trimmed(struct job *job)
{
    struct queue *queue = handles_get(job->owner);
    if (!queue)
        return;
    queue->trimming = false;
    if (job->status != STATUS_OK) {
        queue->trim_again_ms = runtime_now(queue->rt) + AGAIN_MS;
        LOG_OFTEN(LOG_ERROR, "rejected_not_bounded", LOG_T("user", queue->user),
                  LOG_T("vhost", queue->vhost), LOG_N("messages", queue->backlog.rejected),
                  LOG_T("reason", job->error));
        return;
    }
    note_removed(queue, job);
    if (job->trim.before_us > 0)
        queue->aged_after = job->trim.after;
    bool goes_on = !job->trim.at_end && runtime_serves(queue->rt);
    if (goes_on && (job->trim.before_us > 0 || excess(queue) > 0))
        trim(queue, job->trim.before_us, job->trim.after);
}

void rejected_bound_look(struct queue *queue, bool aged)
{
    if (queue->trimming || queue->backlog.rejected == 0 || !runtime_serves(queue->rt) ||
        runtime_now(queue->rt) < queue->trim_again_ms)
        return;
    uint64_t before_us = aged ? oldest_us(queue) : 0;
    if (before_us > 0 || excess(queue) > 0)
        trim(queue, before_us, before_us > 0 ? queue->aged_after : 0);
}
