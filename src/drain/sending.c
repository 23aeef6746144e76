#include "drain/sending.h"

#include "amqp/method.h"
#include "amqp/wire.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "drain/drain_struct.h"
#include "drain/places.h"
#include "drain/removal.h"
#include "peer/runtime.h"
#include "peer/send.h"
#include "upstream/shareable.h"

/* After a restart what waits is learned from what is read. */
static void note_declared(struct drain *d, struct sent *entry, const struct job_record *record)
{
    entry->destination = declared_hash(record->frames + FRAME_HEAD_BYTES, record->method_len);
    entry->promise = names_of_declaration(record->frames + FRAME_HEAD_BYTES, record->method_len);
    declared_add(&d->backlog->declared, entry->destination);
}

/* RabbitMQ would end the connection over what is not. */
static bool is_tame(const struct job_record *record)
{
    const uint8_t *method = record->frames + FRAME_HEAD_BYTES;
    return shareable_publish(method, record->method_len,
                             method + record->method_len + FRAME_OVERHEAD_BYTES,
                             record->header_len);
}

static void note_under_way(struct drain *d)
{
    struct aside *a = d->batch.only ? asides_find(&d->backlog->asides, d->batch.only) : NULL;
    if (a)
        a->under_way++;
}

/* A channel was stuck, and it is to be known at what if this one is. */
static void mark(struct drain *d, const struct job_record *record)
{
    if (d->backlog->stuck_ms == 0 || !d->confirms || !marks_is_new(&d->marks, record->destination))
        return;
    wire_send_plain(drain_stream(d), d->link.channel, AMQP_CONFIRM_SELECT_METHOD);
    marks_add(&d->marks, d->last_tag, true);
}

static void send_record(struct drain *d, const struct job_record *record)
{
    bool is_publish = record->kind == RECORD_PUBLISH, fits = record->frames_len > 0;
    bool tame = !is_publish || !fits || is_tame(record), goes = fits && tame;
    struct sent *entry = in_flight_add(&d->sent, record, is_publish && goes ? ++d->last_tag : 0,
                                       runtime_now(d->backlog->rt));
    entry->passed_over = d->skipped;
    if (goes) {
        if (!is_publish)
            note_declared(d, entry, record);
        note_under_way(d);
        stream_write_span(drain_stream(d), d->batch.slab, record->frames, record->frames_len);
        if (is_publish)
            mark(d, record);
        return;
    }
    if (!is_publish)
        declared_clear(&d->backlog->declared); /* whichever it was */
    in_flight_set(&d->sent, entry, SENT_CONFIRMED);
    if (!tame)
        removal_reject(d, entry, 541, "INTERNAL_ERROR - a direct reply whose asker is gone");
    else /* it was taken when RabbitMQ's frame_max was larger */
        removal_reject(d, entry, 501,
                       is_publish ? "FRAME_ERROR - content header larger than frame_max"
                                  : "FRAME_ERROR - method larger than frame_max");
}

/* A publish to a destination that is aside waits for that one's turn; one that is under way, or
 * that RabbitMQ has and the spool could not let go of, is not sent twice. */
static bool is_passed_over(struct drain *d, const struct job_record *record)
{
    if (remains_have(&d->backlog->remains, record->seq))
        return true;
    if (d->batch.only)
        return in_flight_find(&d->sent, record->seq) != NULL;
    return record->kind == RECORD_PUBLISH && asides_find(&d->backlog->asides, record->destination);
}

static void note_reached(struct drain *d, uint64_t seq)
{
    struct aside *a = d->batch.only ? asides_find(&d->backlog->asides, d->batch.only) : NULL;
    if (!d->batch.only && seq > d->read_after)
        d->read_after = seq;
    else if (a && seq > a->cursor)
        a->cursor = seq;
}

/* Only now: what a batch leaves behind that is dropped before is still to be sent. */
static void note_scanned(struct drain *d)
{
    struct aside *a = d->batch.only ? asides_find(&d->backlog->asides, d->batch.only) : NULL;
    if (a)
        aside_scanned(a, d->batch.scanned, d->batch.count);
}

static bool is_held_back(const struct backlog *backlog, const struct job_record *record)
{
    return record->kind == RECORD_PUBLISH && doubts_hold(&backlog->doubts, record->destination);
}

/* A declaration that RabbitMQ refuses closes the channel, and the confirms of what went before it
 * are lost with it: so it is sent alone. Its answer is waited for, not its deletion. Returns how
 * many records were sent. */
static uint32_t send_batch(struct drain *d)
{
    uint32_t sent = 0;
    for (; d->batch.next < d->batch.count; d->batch.next++) {
        const struct job_record *record = &d->batch.records[d->batch.next];
        if (is_passed_over(d, record)) {
            note_reached(d, record->seq);
            continue;
        }
        if (is_held_back(d->backlog, record)) {
            note_reached(d, record->seq);
            d->skipped++;
            continue;
        }
        bool open = in_flight_has_sent(&d->sent, 0);
        d->barrier = (d->barrier && open) || record->kind == RECORD_DECLARE ||
                     record->seq == d->backlog->search.suspect;
        bool waits = (d->barrier && open) || marks_hold(&d->marks, d->last_tag);
        if (waits || !places_fit(d, record))
            return sent;
        send_record(d, record);
        note_reached(d, record->seq);
        sent++;
    }
    note_reached(d, d->batch.reached);
    note_scanned(d);
    batch_drop(&d->batch);
    return sent;
}

void sending_go_on(struct drain *d)
{
    if (d->pass != d->backlog->doubts.pass)
        batch_drop(&d->batch); /* something that waits before it goes first now */
    if (!d->batch.records || d->state != DRAIN_RUNNING)
        return;
    CRASH_POINT("before_replay");
    uint64_t first = d->batch.next < d->batch.count ? d->batch.records[d->batch.next].seq : 0;
    uint32_t sent = send_batch(d);
    if (sent > 0)
        LOG(LOG_DEBUG, "drain_sent", LOG_N("queue", d->backlog->id),
            LOG_N("upstream", d->link.upstream->id), LOG_N("messages", sent),
            LOG_N("first", first));
    CRASH_POINT("after_replay");
    allowance_spend(&d->allowance, sent);
}
