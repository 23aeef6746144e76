#include "drain/reading.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "drain/apart.h"
#include "drain/drain_struct.h"
#include "drain/places.h"
#include "drain/sending.h"
#include "peer/runtime.h"
#include "spooler/spooler.h"

enum {
    BATCH_BYTES = 1024 * 1024,
    BATCH_MIN = 128, /* records, and bytes: a read for less costs more than it brings */
    BATCH_MIN_BYTES = 128 * 1024,
};

void reading_again(struct drain *d)
{
    d->at_end = false;
    newest_forget(&d->newest);
}

static void take_batch(struct drain *d, struct job *job)
{
    struct aside *a = job->read.only ? asides_find(&d->backlog->asides, job->read.only) : NULL;
    if (job->read.only && (!a || a->state != ASIDE_TRYING || a->cursor != job->read.after))
        return; /* RabbitMQ has failed at an older one of it meanwhile */
    batch_take(&d->batch, job);
    if (a)
        return;
    d->at_end = job->read.at_end && !d->more;
    if (d->at_end)
        newest_begin(&d->newest, job->read.reached);
}

static void on_read(struct job *job)
{
    struct drain *d = handles_get(job->owner);
    if (!d)
        return;
    d->reading = false;
    if (d->state != DRAIN_RUNNING || job->context != d->epoch ||
        d->pass != d->backlog->doubts.pass) {
        d->go_on(d);
        return; /* the channel was opened anew meanwhile, or it begins at the first record again */
    }
    if (job->status != STATUS_OK) {
        LOG_OFTEN(LOG_ERROR, "read_failed", LOG_N("queue", job->queue),
                  LOG_T("reason", job->error));
        d->has_failed = true; /* the tick tries again */
        d->go_on(d);
        return;
    }
    take_batch(d, job);
    sending_go_on(d);
    d->go_on(d);
}

/* A destination has come back: what waits for it goes first. False: not yet, not all that was sent
 * is out of the queue. */
static bool begin_pass(struct drain *d)
{
    if (d->pass == d->backlog->doubts.pass)
        return true;
    if (d->reading || in_flight_in_window(&d->sent) > 0)
        return false;
    d->pass = d->backlog->doubts.pass;
    d->read_after = d->skipped = 0;
    asides_begin_pass(&d->backlog->asides, d->pass);
    reading_again(d);
    return true;
}

static struct job *new_read(struct drain *d, uint32_t records_max)
{
    struct job *job = job_new(JOB_READ, d->backlog->id, on_read, d->handle);
    job->context = d->epoch;
    job->read.records_max = records_max;
    job->read.bytes_max = places_bytes_left(d) < BATCH_BYTES ? places_bytes_left(d) : BATCH_BYTES;
    job->read.framing = drain_framing(d);
    return job;
}

/* What has just been stored is still in memory. */
static void take_newest(struct drain *d, uint32_t room)
{
    ENSURE(d->newest.count > 0 && room > 0); /* or the end was read */
    d->batch.count = newest_take(&d->newest, room, &d->batch.records, &d->batch.slab);
    d->batch.next = 0;
    d->batch.reached = d->batch.records[d->batch.count - 1].seq;
    d->at_end = d->newest.count == 0;
    sending_go_on(d);
}

static void read_others(struct drain *d, uint32_t room)
{
    if (d->newest.is_whole) {
        take_newest(d, room);
        return;
    }
    struct asides *asides = &d->backlog->asides;
    struct job *job = new_read(d, room);
    job->read.after = d->read_after;
    job->read.until = UINT64_MAX;
    job->read.except = malloc((asides->count + 1) * sizeof *job->read.except);
    ENSURE(job->read.except);
    for (uint32_t i = 0; i < asides->count; i++)
        job->read.except[job->read.except_count++] = asides->all[i].destination;
    d->more = false;
    d->reading = true;
    spooler_post(d->backlog->rt->spooler, job);
}

static void read_aside(struct drain *d, const struct aside *a, uint32_t room)
{
    struct job *job = new_read(d, room);
    job->read.after = a->cursor;
    job->read.until = d->read_after;
    job->read.only = a->destination;
    d->reading = true;
    spooler_post(d->backlog->rt->spooler, job);
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Places that may be filled now. */
static uint32_t room_left(const struct drain *d)
{
    uint32_t window = places_window(d), taken = in_flight_in_window(&d->sent);
    return taken < window && places_bytes_left(d) > 0 ? window - taken : 0;
}

/* So little is free that a read for it costs more than it brings. */
static bool is_nearly_full(const struct drain *d, uint32_t room)
{
    uint64_t window_bytes = d->backlog->rt->config->pool.window_bytes;
    return in_flight_in_window(&d->sent) > 0 &&
           (room < smaller(places_window(d) / 2, BATCH_MIN) ||
            places_bytes_left(d) < smaller(window_bytes / 2, BATCH_MIN_BYTES));
}

static bool read_once(struct drain *d)
{
    if (d->batch.records || d->reading || d->has_failed ||
        (d->barrier && in_flight_has_sent(&d->sent, 0)))
        return true;
    d->barrier = false;
    if (!begin_pass(d))
        return true;
    uint32_t room = room_left(d), apart, rate = d->backlog->rt->config->drain.rate;
    bool is_full = is_nearly_full(d, room);
    if (is_full && !d->at_end)
        places_note_full(d);
    if (rate > 0 && room > allowance_left(&d->allowance))
        room = allowance_left(&d->allowance);
    if (room == 0 || d->backlog->paused || !runtime_serves(d->backlog->rt) ||
        stream_is_full(drain_stream(d)))
        return true;
    if (apart_join(d))
        reading_again(d);
    const struct aside *a = apart_next(d, &apart);
    if (a && apart_wants_new_channel(d, a))
        return false;
    bool waits = is_full && d->confirms && !d->newest.is_whole;
    if (a)
        read_aside(d, a, apart < room ? apart : room);
    else if (!d->at_end && !waits && !apart_hold_others(d))
        read_others(d, room);
    return true;
}

bool reading_more(struct drain *d)
{
    for (;;) {
        uint32_t newest = d->newest.count;
        if (!read_once(d))
            return false;
        if (d->newest.count == 0 || d->newest.count == newest)
            return true;
        /* Taken from memory; if all of it is held back, nothing else would go on. */
    }
}
