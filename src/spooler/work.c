#include "spooler/work.h"

#include <stdio.h>
#include <stdlib.h>

void work_clear(struct work *w)
{
    free(w->failed);
    w->failed = NULL;
    w->failed_count = w->failed_capacity = 0;
}

#include <uv.h>

bool job_writes(const struct job *job)
{
    return job->type != JOB_READ && job->type != JOB_QUEUE_DROP && job->type != JOB_TRIM;
}

bool work_has_time(const struct work *w, uint64_t begun_ns)
{
    return uv_hrtime() - begun_ns < w->step_ns;
}

void work_result(struct job *job, enum status status, const struct failure *failure)
{
    job->status = status;
    if (status != STATUS_OK)
        snprintf(job->error, sizeof job->error, "%s",
                 failure->text[0] ? failure->text : status_text(status));
}

bool work_open(struct work *w, struct failure *failure)
{
    if (w->store)
        return true;
    if (place_look(&w->place, w->options.path) == PLACE_DATA_GONE) {
        failure_set(failure, STATUS_NO_SPOOL,
                    "%s/data.mdb was moved, removed or replaced: it is not made anew",
                    w->options.path);
        return false;
    }
    if (store_open(&w->store, &w->options, failure) != STATUS_OK)
        return false;
    place_note(&w->place, w->options.path);
    return true;
}

void work_close_if_fatal(struct work *w, enum status status)
{
    if (status != STATUS_FATAL || !w->store)
        return;
    (void)store_look_at_place(w->store);
    if (store_misplaced(w->store))
        return;
    store_close(w->store);
    w->store = NULL;
}
