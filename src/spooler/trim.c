#include "spooler/trim.h"

#include <stdlib.h>

#include <uv.h>

#include "base/crash_point.h"
#include "spooler/rejected_file.h"
#include "json/json.h"
#include "json/routing.h"

struct trim {
    struct work *work;
    struct job *job;
    struct rejected_file file;
    struct method_arena arena;
    bool may_be_out; /* a commit has failed, and the disk may have it all the same */
};

/* False if it cannot be read; then it stays where it is. */
static bool export(struct trim *t, const struct reader_record *record)
{
    struct routing routing;
    json_t *json = routing_decode(&routing, record, &t->arena)
                       ? json_record(t->job->trim.user, t->job->trim.vhost, record, &routing, true)
                       : NULL;
    if (json)
        json_write(json, JSON_COMPACT, rejected_file_write, &t->file);
    return json != NULL;
}

static bool is_due(const struct job *job, const struct reader_record *record)
{
    return job->trim.count < job->trim.excess || record->rejection.at_us < job->trim.before_us;
}

static enum status take_out(struct trim *t, const struct reader_record *record,
                            struct failure *failure)
{
    uint64_t seq;
    if (t->job->trim.exports && !export(t, record))
        return STATUS_OK;
    t->job->trim.count++;
    return store_discard(t->work->store, t->job->queue, record->seq - 1, record->seq, &seq,
                         failure);
}

/* Damaged ones are passed over: a person decides about them. So are those that are not old enough:
 * RabbitMQ may have refused a message long after those behind it. */
static enum status take_out_next(struct trim *t, struct failure *failure)
{
    struct job *job = t->job;
    struct reader_record record;
    uint8_t *bytes = NULL;
    enum status status =
        store_copy_rejected(t->work->store, job->queue, job->trim.after, &record, &bytes, failure);
    bool is_end = status == STATUS_NOT_FOUND, is_damaged = status == STATUS_INVALID;
    job->trim.at_end = is_end;
    if (is_end)
        job->trim.after = 0;
    else if (status == STATUS_OK || is_damaged)
        job->trim.after = record.seq;
    if (status == STATUS_OK && is_due(job, &record))
        status = take_out(t, &record, failure);
    else if (status == STATUS_OK)
        job->trim.at_end = job->trim.before_us == 0;
    free(bytes);
    return is_damaged || is_end ? STATUS_OK : status;
}

static enum status take_out_step(struct trim *t, struct failure *failure)
{
    uint64_t begun_ns = uv_hrtime();
    enum status status = take_out_next(t, failure);
    while (status == STATUS_OK && !t->job->trim.at_end && work_has_time(t->work, begun_ns))
        status = take_out_next(t, failure);
    /* Those that are old enough may be far behind: the next look goes on there. */
    if (t->job->trim.before_us > 0 && t->job->trim.count == 0)
        t->job->trim.at_end = true;
    return status;
}

static enum status commit(struct trim *t, struct failure *failure)
{
    enum status status = t->job->trim.exports ? rejected_file_sync(&t->file, failure) : STATUS_OK;
    CRASH_POINT("in_trim");
    if (status != STATUS_OK) {
        store_abort(t->work->store);
        return status;
    }
    status = store_commit(t->work->store, failure);
    t->may_be_out = status == STATUS_IO;
    return status;
}

enum status trim_run(struct work *w, struct job *job, struct failure *failure)
{
    struct trim t = {.work = w, .job = job};
    enum status status =
        job->trim.exports ? rejected_file_open(&t.file, w->options.path, failure) : STATUS_OK;
    if (status == STATUS_OK)
        status = store_begin(w->store, failure);
    if (status == STATUS_OK) {
        method_arena_init(&t.arena);
        status = take_out_step(&t, failure);
        method_arena_deinit(&t.arena);
        if (status == STATUS_OK)
            status = commit(&t, failure);
        else
            store_abort(w->store);
    }
    if (status != STATUS_OK) {
        job->trim.count = 0;
        if (t.file.file && !t.may_be_out)
            rejected_file_undo(&t.file);
    }
    rejected_file_close(&t.file);
    return status;
}
