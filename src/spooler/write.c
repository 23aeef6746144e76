#include "spooler/work.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uv.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/memory.h"
#include "spool/credential.h"

/* A write that fails poisons LMDB's transaction, and what came before it is written again: that
 * together, the job that failed in a transaction of its own, and what comes behind it together
 * again. So one that cannot succeed costs the others no more than a commit. */

static enum status run_put(struct work *w, struct job *job, struct failure *failure)
{
    size_t len = strlen(job->put.password);
    uint8_t *sealed = malloc(len + CREDENTIAL_OVERHEAD_BYTES);
    ENSURE(sealed);
    enum status status = credential_seal(&w->key, job->put.user, job->put.vhost,
                                         (const uint8_t *)job->put.password, len, sealed);
    if (status == STATUS_OK)
        status = store_queue_put(w->store, job->put.user, job->put.vhost, sealed,
                                 len + CREDENTIAL_OVERHEAD_BYTES, &job->queue, failure);
    free(sealed);
    return status;
}

static enum status append_one(struct work *w, struct job *job, struct job_append *append,
                              struct failure *failure)
{
    const struct message *m = &append->message;
    struct iovec few[8], *body = few;
    if (m->body_count > 8) {
        body = malloc(m->body_count * sizeof *body);
        if (!body)
            return failure_set(failure, STATUS_NO_MEMORY, "out of memory for a message's parts");
    }
    for (uint32_t i = 0; i < m->body_count; i++)
        body[i] = (struct iovec){m->body[i].at, m->body[i].len};
    struct store_message record = {
        .kind = append->kind,
        .received_at_us = append->received_at_us,
        .method = {m->method.at, m->method.len},
        .header = {m->header.at, m->header.len},
        .body = body,
        .body_count = m->body_count,
    };
    enum status status =
        job->append.rejection_text
            ? store_append_rejected(w->store, job->queue, &record, &job->append.rejection,
                                    &job->append.last_seq, failure)
            : store_append(w->store, job->queue, &record, &job->append.last_seq, failure);
    if (body != few)
        free(body);
    return status;
}

static bool has_failed(const struct work *w, uint64_t channel)
{
    for (uint32_t i = 0; channel && i < w->failed_count; i++)
        if (w->failed[i].channel == channel)
            return true;
    return false;
}

static void add_failed(struct work *w, uint64_t channel)
{
    if (w->failed_count == w->failed_capacity) {
        w->failed_capacity = 2 * w->failed_capacity + WORK_CHANNELS_FAILED;
        w->failed = memory_grow(w->failed, w->failed_capacity, sizeof *w->failed);
    }
    w->failed[w->failed_count++] = (struct work_failed){channel, w->batch};
}

/* All that is posted from now on was posted by a loop that has heard of the batches up to `heard`.
 */
static void forget_failed(struct work *w, uint64_t heard)
{
    uint32_t gone = 0;
    while (w->failed_count - gone > WORK_CHANNELS_FAILED && w->failed[gone].batch <= heard)
        gone++;
    w->failed_count -= gone;
    if (gone > 0)
        memmove(w->failed, w->failed + gone, w->failed_count * sizeof *w->failed);
}

/* One in the line of its channel: what RabbitMQ has refused stands beside it. */
static bool is_in_line(const struct job *job)
{
    return job->type == JOB_APPEND && !job->append.rejection_text;
}

static void note_failed(struct work *w, const struct job *job)
{
    bool hears_of_each = w->refuses_one_by_one && job->context && !job->append.commit;
    if (is_in_line(job) && job->status != STATUS_OK && job->owner && !hears_of_each &&
        !has_failed(w, job->owner))
        add_failed(w, job->owner);
}

/* Whether a whole list finds room is asked before the first of it is put. */
static enum status check_list(struct work *w, const struct job *job, struct failure *failure)
{
    uint64_t cost = 0;
    for (const struct job_append *a = &job->append.first; a; a = a->next) {
        const struct message *m = &a->message;
        struct iovec body = {NULL, (size_t)m->body_size};
        struct store_message record = {
            .kind = a->kind,
            .method = {m->method.at, m->method.len},
            .header = {m->header.at, m->header.len},
            .body = &body,
            .body_count = 1,
        };
        cost += store_append_cost(w->store, job->queue, &record);
    }
    return store_room_for(w->store, cost, failure);
}

static enum status run_append(struct work *w, struct job *job, struct failure *failure)
{
    job->append.last_seq = 0;
    if (is_in_line(job) && has_failed(w, job->owner))
        return failure_set(failure, STATUS_FULL,
                           "an earlier message of its channel could not be stored");
    if (job->append.count > 1) {
        enum status status = check_list(w, job, failure);
        if (status != STATUS_OK)
            return status;
    }
    struct job_append *first = job->append.count > 0 ? &job->append.first : NULL;
    for (struct job_append *a = first; a; a = a->next) {
        enum status status = append_one(w, job, a, failure);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

/* One that was damaged since it was read stays where it is, like all damaged ones. */
static void let_stay(struct job *job, uint32_t i)
{
    uint64_t *seqs = job->delete.seqs, seq = seqs[i];
    LOG_OFTEN(LOG_ERROR, "record_damaged", LOG_N("queue", job->queue), LOG_N("seq", seq));
    seqs[i] = seqs[job->delete.stay];
    seqs[job->delete.stay++] = seq;
}

static enum status run_delete(struct work *w, struct job *job, struct failure *failure)
{
    job->delete.stay = 0;
    for (uint32_t i = 0; i < job->delete.count; i++) {
        enum status status = store_delete(w->store, job->queue, job->delete.seqs[i], failure);
        if (status == STATUS_INVALID)
            let_stay(job, i);
        else if (status != STATUS_OK && status != STATUS_NOT_FOUND)
            return status;
    }
    return STATUS_OK;
}

static enum status run_reject(struct work *w, struct job *job, struct failure *failure)
{
    struct rejection rejection = {
        .code = job->reject.code,
        .text = job->reject.text,
        .text_len = (uint16_t)strlen(job->reject.text),
        .at_us = job_clock_us(),
    };
    job->reject.stays = false;
    return store_reject(w->store, job->queue, job->reject.seq, &rejection, failure);
}

static enum status discard(struct work *w, struct job *job, uint64_t *after,
                           struct failure *failure)
{
    uint64_t last = job->rejected.last;
    enum status status = store_discard(w->store, job->queue, *after, last, after, failure);
    if (status != STATUS_NOT_FOUND || !job->rejected.is_one)
        return status;
    status = store_discard_damaged(w->store, job->queue, last, failure);
    if (status == STATUS_OK) {
        *after = last;
        job->rejected.damaged++;
    }
    return status;
}

/* As many as there is time for: publishes wait for the same commit. What was moved before an
 * obstacle stays moved. */
static enum status run_rejected(struct work *w, struct job *job, struct failure *failure)
{
    uint64_t after = job->rejected.after;
    if (job->rejected.last ==
        UINT64_MAX) /* what is refused again comes behind, and is not of these */
        job->rejected.last = store_last_seq(w->store, job->queue);
    job->rejected.count = job->rejected.damaged = 0;
    uint64_t begun_ns = uv_hrtime();
    for (uint32_t i = 0; i < job->rejected.max && (i == 0 || work_has_time(w, begun_ns)); i++) {
        enum status status =
            job->type == JOB_RETRY
                ? store_retry(w->store, job->queue, after, job->rejected.last, &after, failure)
                : discard(w, job, &after, failure);
        job->rejected.reached = after;
        if (status != STATUS_OK)
            return status;
        job->rejected.count++;
    }
    return STATUS_OK;
}

static enum status run_write(struct work *w, struct job *job, struct failure *failure)
{
    switch (job->type) {
    case JOB_QUEUE_PUT:
        return run_put(w, job, failure);
    case JOB_APPEND:
        return run_append(w, job, failure);
    case JOB_DELETE:
        return run_delete(w, job, failure);
    case JOB_REJECT:
        return run_reject(w, job, failure);
    case JOB_RETRY:
    case JOB_DISCARD:
        return run_rejected(w, job, failure);
    case JOB_QUEUE_DROP:
    case JOB_TRIM:
    case JOB_READ:
        break;
    }
    return STATUS_OK;
}

/* True if the transaction cannot go on after this result. A list of appends is all or nothing:
 * what it has put in before it failed must come out again. */
static bool poisons(const struct job *job, enum status status)
{
    if (status == STATUS_OK)
        return false;
    if (job->type == JOB_APPEND && job->append.last_seq > 0)
        return true;
    return status != STATUS_FULL && status != STATUS_NOT_FOUND && status != STATUS_INVALID;
}

static enum status begin(struct work *w, struct failure *failure)
{
    if (!work_open(w, failure))
        return failure->status;
    return store_begin(w->store, failure);
}

static enum status commit(struct work *w, struct failure *failure)
{
    uint64_t started_ns = uv_hrtime();
    enum status status = store_commit(w->store, failure);
    if (status == STATUS_OK)
        gauges_add_commit(&w->gauges, uv_hrtime() - started_ns);
    if (status != STATUS_OK)
        w->failing = true;
    else if (w->options.sync != STORE_SYNC_INTERVAL)
        w->failing = false; /* else it proves nothing: it was not synced */
    return status;
}

/* What cannot be taken out of damaged pages stays there, and is in nobody's way: for the drain it
 * is done. */
static enum status pass_damage(struct job *job, enum status status)
{
    bool takes_out = job->type == JOB_DELETE || job->type == JOB_REJECT;
    bool is_damaged = status == STATUS_DAMAGED || status == STATUS_INVALID;
    if (!takes_out || !is_damaged)
        return status;
    LOG_OFTEN(LOG_ERROR, "record_damaged", LOG_N("queue", job->queue),
              LOG_N("seq", job->type == JOB_DELETE ? job->delete.seqs[0] : job->reject.seq));
    if (job->type == JOB_DELETE)
        job->delete.stay = job->delete.count;
    else
        job->reject.stays = true;
    return STATUS_OK;
}

/* False if it was the store that failed, so that the next job has no better chance. */
static bool write_alone(struct work *w, struct job *job)
{
    struct failure failure = {0};
    enum status status = begin(w, &failure), of_store = status;
    if (status == STATUS_OK) {
        status = run_write(w, job, &failure);
        bool moved = (job->type == JOB_RETRY || job->type == JOB_DISCARD) &&
                     job->rejected.count > 0 && !poisons(job, status);
        if (moved || status == STATUS_OK) {
            struct failure of_commit = {0};
            of_store = commit(w, &of_commit);
            if (of_store != STATUS_OK) { /* else what stopped a move is told, and the rest stays */
                status = of_store;
                failure = of_commit;
            }
        } else {
            store_abort(w->store);
        }
    }
    work_result(job, pass_damage(job, status), &failure);
    note_failed(w, job);
    work_close_if_fatal(w, status);
    return of_store == STATUS_OK || of_store == STATUS_NO_SPACE;
}

static void refuse(struct work *w, struct job *job, const struct job *like)
{
    struct failure failure = {0};
    snprintf(failure.text, sizeof failure.text, "%s", like->error);
    work_result(job, like->status, &failure);
    note_failed(w, job);
}

/* After a commit that failed: what is too large for a full disk does not take the others with it,
 * and nobody waits for a broken one more often than once. */
static void write_each(struct work *w, struct mail *first)
{
    const struct job *broken = NULL;
    for (struct mail *mail = first; mail; mail = mail->next) {
        struct job *job = (struct job *)mail;
        if (!job_writes(job))
            continue;
        if (broken)
            refuse(w, job, broken);
        else if (!write_alone(w, job))
            broken = job;
    }
}

/* The jobs from `first` up to `end` (NULL: all that follow) in one transaction; false if it had to
 * be given up, because of *culprit, or, where that is NULL, because of the store. */
static bool write_together(struct work *w, struct mail *first, const struct mail *end,
                           struct mail **culprit)
{
    struct failure failure = {0};
    enum status status = begin(w, &failure);
    *culprit = NULL;
    if (status != STATUS_OK) {
        work_close_if_fatal(w, status);
        return false;
    }
    for (struct mail *mail = first; mail != end; mail = mail->next) {
        struct job *job = (struct job *)mail;
        if (!job_writes(job))
            continue;
        failure.text[0] = 0;
        status = run_write(w, job, &failure);
        if (poisons(job, status)) {
            *culprit = mail;
            store_abort(w->store);
            work_close_if_fatal(w, status);
            return false;
        }
        work_result(job, pass_damage(job, status), &failure);
        note_failed(w, job);
    }
    status = commit(w, &failure);
    work_close_if_fatal(w, status);
    return status == STATUS_OK;
}

static struct mail *next_write(struct mail *mail)
{
    while (mail && !job_writes((struct job *)mail))
        mail = mail->next;
    return mail;
}

void work_write(struct work *w, struct mail_chain *batch)
{
    struct mail *culprit, *other, *first = next_write(batch->first);
    w->batch++;
    if (batch->first)
        forget_failed(w, ((struct job *)batch->first)->heard);
    for (struct mail *mail = batch->first; mail; mail = mail->next)
        ((struct job *)mail)->batch = w->batch;
    while (first) {
        if (write_together(w, first, NULL, &culprit))
            return;
        if (!culprit || (culprit != first && !write_together(w, first, culprit, &other))) {
            write_each(w, first);
            return;
        }
        write_alone(w, (struct job *)culprit);
        first = next_write(culprit->next);
    }
}
