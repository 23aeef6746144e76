#include "drain/removal.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/crash_point.h"
#include "base/handles.h"
#include "base/log.h"
#include "drain/drain_struct.h"
#include "drain/places.h"
#include "peer/runtime.h"
#include "spooler/spooler.h"

static void settled(struct drain *d, const uint64_t *seqs, uint32_t count)
{
    struct backlog *backlog = d->backlog;
    uint32_t places = in_flight_in_window(&d->sent);
    in_flight_remove(&d->sent, seqs, count);
    places_freed(d, places - in_flight_in_window(&d->sent));
    backlog->waiting -= count;
    search_settled(&backlog->search, count);
}

static void count_drained(struct backlog *backlog, uint32_t count)
{
    backlog->drained += count;
    backlog->rt->counters.drained += count;
}

static void note_undeleted(struct drain *d, const uint64_t *seqs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct sent *entry = in_flight_find(&d->sent, seqs[i]);
        if (entry)
            in_flight_set(&d->sent, entry, SENT_UNDELETED);
    }
}

static void on_deleted(struct job *job)
{
    struct backlog *backlog = handles_get(job->context);
    struct drain *d = handles_get(job->owner);
    if (job->status != STATUS_OK)
        LOG_OFTEN(LOG_ERROR, "delete_failed", LOG_N("queue", job->queue),
                  LOG_T("reason", job->error));
    if (!backlog)
        return;
    if (job->status == STATUS_OK)
        backlog_note_remains(backlog, job->delete.seqs, job->delete.stay);
    if (!d) { /* the drain has ended meanwhile; the records are gone all the same */
        if (job->status == STATUS_OK) {
            backlog->waiting -= job->delete.count;
            count_drained(backlog, job->delete.count);
        }
        backlog_changed(backlog);
        return;
    }
    if (job->status != STATUS_OK) {
        note_undeleted(d, job->delete.seqs, job->delete.count);
        return;
    }
    CRASH_POINT("after_delete");
    settled(d, job->delete.seqs, job->delete.count);
    d->drained += job->delete.count;
    search_passed(&backlog->search, job->delete.count, backlog_window(backlog));
    count_drained(backlog, job->delete.count);
    d->go_on(d);
    backlog_changed(backlog); /* places are free, and the drain may be gone */
}

static void on_rejected(struct job *job)
{
    struct backlog *backlog = handles_get(job->context);
    struct drain *d = handles_get(job->owner);
    if (!backlog)
        return;
    if (job->status != STATUS_OK) {
        LOG_OFTEN(LOG_ERROR, "reject_failed", LOG_N("queue", job->queue),
                  LOG_T("reason", job->error));
        if (d)
            note_undeleted(d, &job->reject.seq, 1);
        return;
    }
    CRASH_POINT("after_reject");
    backlog_note_remains(backlog, &job->reject.seq, job->reject.stays);
    backlog->rejected += !job->reject.stays;
    counters_add_rejected(&backlog->rt->counters, job->reject.code);
    search_found(&backlog->search);
    if (!d) {
        backlog->waiting--;
        backlog_changed(backlog);
        return;
    }
    d->rejected++;
    settled(d, &job->reject.seq, 1);
    d->go_on(d);
    backlog_changed(backlog); /* a place is free, and the drain may be gone */
}

void removal_delete(struct drain *d, const uint64_t *seqs, uint32_t count)
{
    if (count == 0)
        return;
    CRASH_POINT("before_delete");
    struct job *job = job_new(JOB_DELETE, d->backlog->id, on_deleted, d->handle);
    job->context = d->backlog->handle;
    job->delete.seqs = malloc(count * sizeof *seqs);
    ENSURE(job->delete.seqs);
    memcpy(job->delete.seqs, seqs, count * sizeof *seqs);
    job->delete.count = count;
    spooler_post(d->backlog->rt->spooler, job);
}

static void post_rejection(struct drain *d, const struct sent *entry)
{
    CRASH_POINT("before_reject");
    struct job *job = job_new(JOB_REJECT, d->backlog->id, on_rejected, d->handle);
    job->context = d->backlog->handle;
    job->reject.seq = entry->seq;
    job->reject.code = entry->returned;
    job->reject.text = strdup(entry->why);
    ENSURE(job->reject.text);
    spooler_post(d->backlog->rt->spooler, job);
}

void removal_reject(struct drain *d, struct sent *entry, uint16_t code, const char *text)
{
    sent_reject(entry, code, text);
    LOG_OFTEN(LOG_WARN, "message_rejected", LOG_T("user", d->backlog->user),
              LOG_T("vhost", d->backlog->vhost), LOG_N("seq", entry->seq), LOG_N("code", code),
              LOG_T("reason", entry->why));
    post_rejection(d, entry);
}

void removal_retry(struct drain *d)
{
    struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(&d->sent, &at)) != NULL;) {
        if (entry->state != SENT_UNDELETED)
            continue;
        in_flight_set(&d->sent, entry, SENT_CONFIRMED);
        if (entry->is_rejected)
            post_rejection(d, entry);
        else
            removal_delete(d, &entry->seq, 1);
    }
}
