#include "spooler/work.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/destination.h"
#include "amqp/expiration.h"
#include "base/assert.h"
#include "base/log.h"
#include "spooler/framing.h"

enum {
    SHORTENED_MAX = 128 * 1024, /* longest content header whose expiration is shortened */
    PASSED_OVER_MAX = 10000,    /* records that are looked at and not wanted: the disk has others to
                                   serve */
};

struct read_state {
    const struct work *work;
    struct job *job;
    uint8_t shortened[SHORTENED_MAX];
    struct iovec header;   /* of the record that was chosen, as it is sent */
    size_t size;           /* of its frames */
    size_t used, capacity; /* of the slab under construction, which starts on the heap */
    uint32_t passed_over;
    bool stopped;
};

/* The header of a message whose time to live went on while it waited (drain.expiration). */
static struct iovec shorten_expiration(const struct work *w, const struct store_record *record,
                                       uint8_t shortened[SHORTENED_MAX])
{
    if (!w->shorten_expiration || record->kind != RECORD_PUBLISH ||
        record->header.iov_len > SHORTENED_MAX)
        return record->header;
    uint64_t now_us = job_clock_us();
    uint64_t waited_ms =
        now_us > record->received_at_us ? (now_us - record->received_at_us) / 1000 : 0;
    size_t len =
        expiration_shorten(record->header.iov_base, record->header.iov_len, waited_ms, shortened);
    return len ? (struct iovec){shortened, len} : record->header;
}

static bool is_wanted(const struct job *job, const struct store_record *record,
                      uint64_t destination)
{
    if (job->read.only)
        return destination == job->read.only;
    for (uint32_t i = 0; i < job->read.except_count; i++)
        if (destination == job->read.except[i] && record->kind == RECORD_PUBLISH)
            return false;
    return true;
}

/* Looks at all of a record but its body, which may be long. */
static enum store_choice choose_record(void *arg, const struct store_record *record)
{
    struct read_state *state = arg;
    struct job *job = state->job;
    if (record->seq > job->read.until)
        return STORE_STOP;
    uint64_t destination = record->kind == RECORD_PUBLISH
                               ? destination_of(record->method.iov_base, record->method.iov_len)
                               : 0;
    if (!is_wanted(job, record, destination)) {
        job->read.reached = record->seq;
        state->stopped = ++state->passed_over == PASSED_OVER_MAX;
        return state->stopped ? STORE_STOP : STORE_PASS;
    }
    state->header = shorten_expiration(state->work, record, state->shortened);
    state->size = framing_size(&job->read.framing, record, &state->header);
    state->stopped = job->read.count == job->read.records_max ||
                     (job->read.count > 0 && state->used + state->size > job->read.bytes_max);
    return state->stopped ? STORE_STOP : STORE_TAKE;
}

static bool visit_record(void *arg, const struct store_record *record)
{
    struct read_state *state = arg;
    struct job *job = state->job;
    if (state->size > state->capacity - state->used) {
        /* A slab cannot grow: only the first record may ask for more than was planned. */
        ENSURE(job->read.count == 0);
        state->capacity = state->size;
    }
    if (!job->read.slab) {
        job->read.slab = slab_new_on_thread(state->capacity);
        if (!job->read.slab) {
            state->stopped = true;
            return false;
        }
    }
    uint8_t *at = job->read.slab->data + state->used;
    struct job_record *out = &job->read.records[job->read.count++];
    *out = framing_write(&job->read.framing, record, &state->header, at);
    job->read.reached = record->seq;
    state->used += out->frames_len;
    job->read.slab->used = state->used;
    return true;
}

static void on_damaged(void *arg, uint64_t seq)
{
    struct read_state *state = arg;
    LOG_OFTEN(LOG_ERROR, "record_damaged", LOG_N("queue", state->job->queue), LOG_N("seq", seq));
}

void work_read(struct work *w, struct job *job)
{
    struct failure failure = {0};
    struct read_state state = {.work = w, .job = job, .capacity = job->read.bytes_max};
    struct store_visitor visitor = {choose_record, visit_record, on_damaged, &state};
    if (!work_open(w, &failure)) {
        work_result(job, failure.status, &failure);
        return;
    }
    job->read.reached = job->read.after;
    job->read.records = calloc(job->read.records_max, sizeof *job->read.records);
    ENSURE(job->read.records);
    enum status status = store_read(w->store, job->queue, job->read.after, &visitor, &failure);
    job->read.at_end = !state.stopped;
    work_result(job, status, &failure);
    work_close_if_fatal(w, status);
}
