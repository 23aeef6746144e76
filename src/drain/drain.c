#include "drain/drain.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/method.h"
#include "amqp/rules.h"
#include "amqp/wire.h"
#include "base/assert.h"
#include "base/crash_point.h"
#include "base/handles.h"
#include "base/log.h"
#include "base/states.h"
#include "drain/aside.h"
#include "drain/backlog.h"
#include "drain/blame.h"
#include "drain/in_flight.h"
#include "drain/names.h"
#include "drain/newest.h"
#include "drain/returned.h"
#include "peer/runtime.h"
#include "peer/send.h"
#include "spooler/spooler.h"
#include "upstream/shareable.h"
#include "upstream/upstream.h"

/* Happy path: channel.open, open-ok, confirm.select, select-ok; batches of records are read and
 * sent, at most drain.window of them unconfirmed or not yet deleted; each is deleted after its
 * confirm; when nothing waits any more: channel.close, close-ok, live. Without confirms a window of
 * records is sent, and channel.close asked for: close-ok shows that RabbitMQ has read all of them.
 *
 * What can fail:
 * - The upstream is lost: the drain ends, what was not confirmed is still in the queue.
 * - A declaration is not answered: the log says so, and it is waited for.
 * - No answer, or channel.open refused: the upstream is given up, and tried again with back-off.
 * - RabbitMQ closes the channel, or the connection, over one bad message: which one cannot be told
 *   from a window of many. The drain starts again from the first unconfirmed one. The first that
 *   RabbitMQ's words point at is sent alone; if they point at none, all are sent with a small
 * window and then one by one ("careful"). Refused alone, it is rejected. The window grows again
 * from what went well since the last rejection, so that one bad message in ten is no great matter.
 * - RabbitMQ fails at a record for reasons of its own while it is alone (an internal error): it is
 *   tried again in its place with growing pauses, and rejected after drain.nack_limit tries.
 * - basic.return or basic.nack, or no confirm for pool.confirm_timeout: the message's destination
 * is set aside (aside.h). Its messages are read apart from all others, from a place of their own,
 * and tried again in their order; the others go on. What was nacked is tried on a new channel, and
 * rejected after drain.nack_limit tries; what was returned for drain.unroutable_wait is dropped or
 * rejected. */

enum {
    BATCH_BYTES = 1024 * 1024,
    BATCH_MIN = 128, /* records, and bytes: a read for less costs more than it brings */
    BATCH_MIN_BYTES = 128 * 1024,
    ASIDES_MAX = 64,  /* asides_hold_others */
    SILENT_LONG = 10, /* times pool.confirm_timeout: then something is sent again all the same */
};

enum drain_state {
    DRAIN_OPENING,
    DRAIN_SELECTING,
    DRAIN_RUNNING,
    DRAIN_RENEWING, /* nothing more is sent; once all is answered, a new channel */
    DRAIN_CLOSING,
    DRAIN_DELETING, /* closed; what RabbitMQ has taken is being deleted */
    DRAIN_RESTING,  /* and then RabbitMQ is given time, after a failure of its own */
};

static const struct states states = {
    .object = "drain",
    .names = {[DRAIN_OPENING] = "opening",
              [DRAIN_SELECTING] = "selecting",
              [DRAIN_RUNNING] = "running",
              [DRAIN_RENEWING] = "renewing",
              [DRAIN_CLOSING] = "closing",
              [DRAIN_DELETING] = "deleting",
              [DRAIN_RESTING] = "resting"},
    .next =
        {
            [DRAIN_OPENING] = TO(DRAIN_SELECTING) | TO(DRAIN_RUNNING),
            [DRAIN_SELECTING] = TO(DRAIN_RUNNING) | TO(DRAIN_DELETING),
            [DRAIN_RUNNING] = TO(DRAIN_RENEWING) | TO(DRAIN_CLOSING) | TO(DRAIN_DELETING),
            [DRAIN_RENEWING] = TO(DRAIN_CLOSING) | TO(DRAIN_DELETING),
            [DRAIN_CLOSING] = TO(DRAIN_DELETING),
            [DRAIN_DELETING] = TO(DRAIN_RESTING),
            [DRAIN_RESTING] = TO(DRAIN_OPENING),
        },
};

struct drain {
    struct link link;
    struct backlog *backlog;
    uint64_t handle;
    enum drain_state state;
    uint64_t deadline_ms; /* of the answer that is awaited; 0: none */
    bool confirms;
    bool reading;
    bool more;           /* came since the read that is under way was asked for */
    bool at_end;         /* the last read saw the end of the queue */
    bool barrier;        /* something is out, or next, that is sent alone */
    bool nacked;         /* RabbitMQ has nacked on this channel */
    uint64_t read_after; /* sequence number of the last record of all but those aside */
    uint64_t pass;       /* doubts.pass of its queue when it began at the first record */
    uint64_t skipped;    /* records of doubtful destinations that were read since */
    uint64_t last_tag;
    uint64_t epoch; /* which opening of the channel: what was read for an older one is stale */
    uint64_t drained, rejected, started_ms;
    uint64_t told;   /* the declaration of which the log has said that it is not answered */
    uint32_t tokens; /* of drain.rate */

    struct in_flight sent;
    struct job_record *batch; /* what was read and is not sent yet: a declaration's answer is due */
    struct slab *batch_slab;
    uint32_t batch_count, batch_next;
    uint64_t batch_reached; /* by all of it */
    uint64_t batch_only;    /* it is of this destination, which is aside; 0: of all others */

    struct newest newest;     /* is whole only while `at_end`, or while it holds what came since */
    struct returned returned; /* the basic.return that is arriving */
};

static const struct link_handler handler;

static struct stream *stream_of(struct drain *d)
{
    return &d->link.upstream->stream;
}

static uint32_t window_of(const struct drain *d)
{
    return search_window(&d->backlog->search, backlog_window(d->backlog));
}

/* Places in the window are free again. */
static void give_back(struct drain *d, uint32_t places)
{
    if (autotune_settled(&d->backlog->tuned, places))
        autotune_end_round(&d->backlog->tuned, uv_hrtime());
}

/* Bytes that may follow (pool.window_bytes); one record always fits where nothing is under way. */
static size_t bytes_left(const struct drain *d)
{
    uint64_t most = d->backlog->rt->config->pool.window_bytes, taken = d->sent.bytes;
    return taken < most ? (size_t)(most - taken) : 0;
}

static bool has_room_for(const struct drain *d, const struct job_record *record)
{
    return record->frames_len <= bytes_left(d) || in_flight_in_window(&d->sent) == 0;
}

/* No place is free: what the window gives a second shows whether more of them would give more. */
static void note_full(struct drain *d)
{
    struct autotune *tuned = &d->backlog->tuned;
    if (autotune_full(tuned) && window_of(d) == autotune_window(tuned))
        autotune_begin_round(tuned, in_flight_in_window(&d->sent), uv_hrtime());
}

static void drain_move(struct drain *d, enum drain_state to)
{
    STATE_MOVE(&states, d->state, to);
    d->deadline_ms = 0;
}

static void expect_answer(struct drain *d, enum drain_state state)
{
    drain_move(d, state);
    d->deadline_ms = runtime_now(d->backlog->rt) + d->backlog->rt->config->pool.confirm_timeout_ms;
}

static bool is_done(const struct drain *d);

static struct framing framing_of(const struct drain *d)
{
    return (struct framing){
        .channel = d->link.channel,
        .frame_max = d->link.upstream->frame_max,
        .mandatory = d->confirms,
    };
}

/* Something may wait behind what was read that is not known here. */
static void look_again(struct drain *d)
{
    d->at_end = false;
    newest_forget(&d->newest);
}

/* ---- the channel's life ---- */

static void open_channel(struct drain *d)
{
    wire_send_plain(stream_of(d), d->link.channel, AMQP_CHANNEL_OPEN_METHOD);
    d->last_tag = 0;
    in_flight_new_channel(&d->sent);
    d->epoch++;
    d->nacked = false;
    look_again(d);
    expect_answer(d, DRAIN_OPENING);
}

static void close_channel(struct drain *d)
{
    amqp_channel_close_t close = {.reply_code = 200, .reply_text = bytes_of("drained")};
    wire_send(stream_of(d), d->link.channel, AMQP_CHANNEL_CLOSE_METHOD, &close);
    expect_answer(d, DRAIN_CLOSING);
}

static bool wants_confirms(const struct drain *d)
{
    return d->link.upstream->offers_confirms &&
           d->backlog->rt->config->drain.confirms == CONFIRMS_AUTO;
}

struct drain *drain_start(struct backlog *backlog, struct upstream *u)
{
    struct drain *d = calloc(1, sizeof *d);
    ENSURE(d);
    d->link.handler = &handler;
    d->backlog = backlog;
    if (!upstream_attach(u, &d->link)) {
        free(d);
        return NULL;
    }
    d->handle = handles_add(d);
    d->pass = backlog->doubts.pass;
    d->started_ms = runtime_now(backlog->rt);
    search_begin(&backlog->search, backlog_window(backlog));
    d->confirms = wants_confirms(d);
    LOG(LOG_INFO, "drain_started", LOG_T("user", backlog->user), LOG_T("vhost", backlog->vhost),
        LOG_N("messages", backlog->waiting), LOG_N("upstream", u->id));
    d->state = DRAIN_RESTING; /* a new one; RabbitMQ may have failed on another connection */
    if (runtime_now(backlog->rt) >= backlog->drain_again_ms)
        open_channel(d);
    return d;
}

static void drop_batch(struct drain *d)
{
    if (d->batch_slab)
        slab_unref(d->batch_slab);
    free(d->batch);
    d->batch = NULL;
    d->batch_slab = NULL;
    d->batch_count = d->batch_next = 0;
    d->batch_only = 0;
}

/* What RabbitMQ has not answered for will be read, and sent, again. */
static void rewind_open(struct drain *d)
{
    struct asides *asides = &d->backlog->asides;
    const struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(&d->sent, &at)) != NULL;) {
        struct aside *a = asides_find(asides, entry->destination);
        if (entry->state == SENT_CONFIRMED)
            continue;
        if (a)
            aside_rewind(a, entry->seq);
        else if (entry->seq <= d->read_after)
            d->read_after = entry->seq - 1;
    }
    for (uint32_t i = 0; i < asides->count; i++) {
        asides->all[i].under_way = asides->all[i].fine = 0;
        if (asides->all[i].state == ASIDE_SILENT)
            aside_move(&asides->all[i], ASIDE_TRYING);
    }
    give_back(d, in_flight_forget_open(&d->sent, 0));
    drop_batch(d);
}

static void let_go_of_upstream(struct drain *d)
{
    struct upstream *u = d->link.upstream;
    upstream_detach(&d->link);
    if (u->use == UPSTREAM_FOR_DRAIN && u->state == UPSTREAM_OPEN)
        upstream_close(u);
}

static void drain_free(struct drain *d)
{
    rewind_open(d);
    d->backlog->drain = NULL;
    handles_remove(d->handle);
    in_flight_clear(&d->sent);
    newest_forget(&d->newest);
    free(d);
}

void drain_stop(struct drain *d)
{
    LOG(LOG_INFO, "drain_stopped", LOG_T("user", d->backlog->user),
        LOG_T("vhost", d->backlog->vhost), LOG_N("drained", d->drained),
        LOG_N("messages", d->backlog->waiting));
    if (d->link.upstream)
        let_go_of_upstream(d);
    drain_free(d);
}

static void finish(struct drain *d)
{
    struct backlog *backlog = d->backlog;
    LOG(LOG_INFO, backlog->waiting == 0 ? "drain_finished" : "drain_stopped",
        LOG_T("user", backlog->user), LOG_T("vhost", backlog->vhost), LOG_N("drained", d->drained),
        LOG_N("rejected", d->rejected), LOG_N("messages", backlog->waiting),
        LOG_N("ms", runtime_now(backlog->rt) - d->started_ms));
    if (is_done(d)) {
        backlog->doubts.records = backlog->waiting;
        asides_clear(&backlog->asides);
        declared_clear(&backlog->declared);
        names_forget_promises(&backlog->names);
    }
    if (backlog->waiting == 0)
        backlog->alone = false;
    let_go_of_upstream(d);
    drain_free(d);
    backlog_changed(backlog);
}

/* ---- taking out what RabbitMQ has ---- */

static void advance(struct drain *d);

static void settled(struct drain *d, const uint64_t *seqs, uint32_t count)
{
    struct backlog *backlog = d->backlog;
    uint32_t places = in_flight_in_window(&d->sent);
    in_flight_remove(&d->sent, seqs, count);
    give_back(d, places - in_flight_in_window(&d->sent));
    backlog->waiting -= count;
    search_settled(&backlog->search, count);
}

static void count_drained(struct backlog *backlog, uint32_t count)
{
    backlog->drained += count;
    backlog->rt->counters.drained += count;
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
    if (!d) { /* the drain has ended meanwhile; the records are gone all the same */
        if (job->status == STATUS_OK) {
            backlog->waiting -= job->delete.count;
            count_drained(backlog, job->delete.count);
        }
        backlog_changed(backlog);
        return;
    }
    if (job->status != STATUS_OK) {
        for (uint32_t i = 0; i < job->delete.count; i++) {
            struct sent *entry = in_flight_find(&d->sent, job->delete.seqs[i]);
            if (entry)
                in_flight_set(&d->sent, entry, SENT_UNDELETED);
        }
        return;
    }
    CRASH_POINT("after_delete");
    settled(d, job->delete.seqs, job->delete.count);
    d->drained += job->delete.count;
    search_passed(&backlog->search, job->delete.count, backlog_window(backlog));
    count_drained(backlog, job->delete.count);
    advance(d);
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
            upstream_abort(d->link.upstream, "a rejected message could not be set aside");
        return;
    }
    CRASH_POINT("after_reject");
    backlog->rejected++;
    counters_add_rejected(&backlog->rt->counters, job->reject.code);
    search_found(&backlog->search);
    if (!d) {
        backlog->waiting--;
        backlog_changed(backlog);
        return;
    }
    d->rejected++;
    settled(d, &job->reject.seq, 1);
    advance(d);
    backlog_changed(backlog); /* a place is free, and the drain may be gone */
}

static void delete_entries(struct drain *d, const uint64_t *seqs, uint32_t count)
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

static void reject_seq(struct drain *d, uint64_t seq, uint16_t code, const char *text)
{
    LOG_OFTEN(LOG_WARN, "message_rejected", LOG_T("user", d->backlog->user),
              LOG_T("vhost", d->backlog->vhost), LOG_N("seq", seq), LOG_N("code", code),
              LOG_T("reason", text));
    CRASH_POINT("before_reject");
    struct job *job = job_new(JOB_REJECT, d->backlog->id, on_rejected, d->handle);
    job->context = d->backlog->handle;
    job->reject.seq = seq;
    job->reject.code = code;
    job->reject.text = strdup(text);
    ENSURE(job->reject.text);
    spooler_post(d->backlog->rt->spooler, job);
}

/* What RabbitMQ has said of publishes. */
struct verdict {
    uint64_t tag;
    bool multiple, nack;
    bool all; /* and of declarations: the channel is closed, without confirms */
};

static uint32_t count_open(const struct drain *d, uint64_t destination)
{
    uint32_t open = 0;
    const struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(&d->sent, &at)) != NULL;)
        open += sent_is_open(entry) && entry->destination == destination;
    return open;
}

/* The destination is aside from now on. */
static struct aside *set_aside(struct drain *d, uint64_t destination)
{
    struct aside *a = asides_find(&d->backlog->asides, destination);
    if (a)
        return a;
    a = asides_add(&d->backlog->asides, destination, d->read_after);
    a->under_way = count_open(d, destination);
    return a;
}

static void name_of(const struct sent *entry, char exchange[256], char routing_key[256])
{
    struct publish publish = {0};
    publish_parse(entry->names, entry->names_len, &publish);
    snprintf(exchange, 256, "%.*s", (int)publish.exchange_len, (const char *)publish.exchange);
    snprintf(routing_key, 256, "%.*s", (int)publish.routing_key_len,
             (const char *)publish.routing_key);
}

/* It goes out as RabbitMQ would have let it go: said once for each destination. */
static void tell_dropped(struct drain *d, const struct sent *entry)
{
    struct backlog *backlog = d->backlog;
    backlog->rt->counters.unroutable++;
    for (unsigned i = 0; i < BACKLOG_TOLD; i++)
        if (backlog->told[i] == entry->destination)
            return;
    backlog->told[backlog->told_next++ % BACKLOG_TOLD] = entry->destination;
    char exchange[256], routing_key[256];
    name_of(entry, exchange, routing_key);
    LOG(LOG_WARN, "message_unroutable", LOG_T("user", backlog->user),
        LOG_T("vhost", backlog->vhost), LOG_N("seq", entry->seq), LOG_T("exchange", exchange),
        LOG_T("routing_key", routing_key), LOG_T("reason", entry->why));
}

/* RabbitMQ has nacked or returned this publish, which is no reason to stop the others. */
static enum remedy judge_one(struct drain *d, struct sent *entry, uint16_t code, const char *text)
{
    const struct config *config = d->backlog->rt->config;
    uint64_t now = runtime_now(d->backlog->rt);
    struct aside *a = asides_find(&d->backlog->asides, entry->destination);
    struct circumstances circumstances = {
        .tries = a && a->failing == entry->seq ? a->tries + 1 : 1,
        .nack_limit = config->drain.nack_limit,
        .just_back = now - d->backlog->back_ms < config->drain.unroutable_wait_ms,
        .mandatory = entry->mandatory,
        .unroutable_rejects = config->drain.unroutable == UNROUTABLE_REJECT,
    };
    enum remedy remedy = remedy_of(blame_of(code, text), &circumstances);
    if (remedy != REMEDY_AGAIN) {
        if (a)
            aside_taken(a, entry->seq);
        return remedy;
    }
    a = set_aside(d, entry->destination);
    uint32_t tries = aside_failed(a, entry->seq);
    if (d->batch_only == entry->destination)
        drop_batch(d); /* it was read from behind this one */
    d->nacked = d->nacked || code == 0;
    if (tries == 0)
        return remedy; /* an older one has its turn first */
    LOG_OFTEN(LOG_INFO, "drain_again", LOG_T("user", d->backlog->user),
              LOG_T("vhost", d->backlog->vhost), LOG_N("seq", entry->seq), LOG_N("code", code),
              LOG_T("reason", text), LOG_N("tries", tries));
    aside_rest(a, now, blame_pause_ms(tries));
    return remedy;
}

/* RabbitMQ has answered a declaration: an identical one that comes now is kept again. */
static void forget_declared(struct drain *d, const struct sent *entry)
{
    if (entry->tag > 0)
        return;
    declared_remove(&d->backlog->declared, entry->destination);
    backlog_promise_ended(d->backlog, entry->promise);
}

/* True if it can be deleted. */
static bool settle_one(struct drain *d, struct sent *entry, bool nack)
{
    struct backlog *backlog = d->backlog;
    uint16_t code = nack ? 0 : entry->returned;
    backlog->confirm_ms = runtime_now(backlog->rt) - entry->sent_ms;
    const char *text = nack ? "nacked by RabbitMQ" : entry->why;
    in_flight_set(&d->sent, entry, SENT_CONFIRMED);
    forget_declared(d, entry);
    struct aside *a = asides_find(&backlog->asides, entry->destination);
    if (a && a->under_way > 0)
        a->under_way--;
    if (!nack && !entry->returned) {
        if (a)
            aside_taken(a, entry->seq);
        return true;
    }
    enum remedy remedy = d->confirms ? judge_one(d, entry, code, text) : REMEDY_REJECT;
    if (remedy == REMEDY_REJECT)
        reject_seq(d, entry->seq, code, text);
    else if (remedy == REMEDY_DROP)
        tell_dropped(d, entry);
    else
        in_flight_set(&d->sent, entry, SENT_AGAIN);
    return remedy == REMEDY_DROP;
}

/* The next one that it concerns and that is not answered yet; `at` as in in_flight_next. */
static struct sent *concerned(struct drain *d, const struct verdict *verdict, uint32_t *at)
{
    struct sent *entry;
    if (verdict->all) {
        while ((entry = in_flight_next(&d->sent, at)) != NULL && !sent_is_open(entry))
            continue;
        return entry;
    }
    if (!verdict->multiple)
        return in_flight_tagged(&d->sent, verdict->tag);
    entry = in_flight_oldest(&d->sent);
    return entry && (entry->tag <= verdict->tag || verdict->tag == 0) ? entry : NULL;
}

/* Those that it concerns have been taken by RabbitMQ, or refused, if they were returned or nacked.
 */
static void confirm(struct drain *d, const struct verdict *verdict)
{
    bool one = !verdict->all && !verdict->multiple;
    uint64_t *seqs = malloc((one ? 1 : d->sent.count + 1) * sizeof *seqs);
    ENSURE(seqs);
    uint32_t count = 0, again = 0, at = 0;
    struct sent *entry;
    while ((entry = concerned(d, verdict, &at)) != NULL) {
        if (settle_one(d, entry, verdict->nack))
            seqs[count++] = entry->seq;
        again += entry->state == SENT_AGAIN;
    }
    delete_entries(d, seqs, count);
    free(seqs);
    if (again > 0)
        give_back(d, in_flight_forget_again(&d->sent));
}

/* RabbitMQ answers the methods of a channel in order: a reply is of the oldest declaration. */
static void confirm_declaration(struct drain *d)
{
    struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(&d->sent, &at)) != NULL;) {
        if (entry->tag == 0 && entry->state == SENT_UNCONFIRMED) {
            in_flight_set(&d->sent, entry, SENT_CONFIRMED);
            forget_declared(d, entry);
            delete_entries(d, &entry->seq, 1);
            advance(d);
            return;
        }
    }
}

/* ---- sending ---- */

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

static void send_record(struct drain *d, const struct job_record *record)
{
    bool is_publish = record->kind == RECORD_PUBLISH, fits = record->frames_len > 0;
    bool tame = !is_publish || !fits || is_tame(record), goes = fits && tame;
    struct sent *entry = in_flight_add(&d->sent, record, is_publish && goes ? ++d->last_tag : 0,
                                       runtime_now(d->backlog->rt));
    if (goes) {
        if (!is_publish)
            note_declared(d, entry, record);
        stream_write_span(stream_of(d), d->batch_slab, record->frames, record->frames_len);
        return;
    }
    if (!is_publish)
        declared_clear(&d->backlog->declared); /* whichever it was */
    in_flight_set(&d->sent, entry, SENT_CONFIRMED);
    if (!tame)
        reject_seq(d, record->seq, 541, "INTERNAL_ERROR - a direct reply whose asker is gone");
    else /* it was taken when RabbitMQ's frame_max was larger */
        reject_seq(d, record->seq, 501,
                   is_publish ? "FRAME_ERROR - content header larger than frame_max"
                              : "FRAME_ERROR - method larger than frame_max");
}

/* A publish to a destination that is aside waits for that one's turn; one that is under way is not
 * sent twice. */
static bool is_passed_over(struct drain *d, const struct job_record *record)
{
    if (d->batch_only)
        return in_flight_find(&d->sent, record->seq) != NULL;
    return record->kind == RECORD_PUBLISH && asides_find(&d->backlog->asides, record->destination);
}

static void note_reached(struct drain *d, uint64_t seq)
{
    struct aside *a = d->batch_only ? asides_find(&d->backlog->asides, d->batch_only) : NULL;
    if (!d->batch_only && seq > d->read_after)
        d->read_after = seq;
    else if (a && seq > a->cursor)
        a->cursor = seq;
}

static void note_under_way(struct drain *d)
{
    struct aside *a = d->batch_only ? asides_find(&d->backlog->asides, d->batch_only) : NULL;
    if (a)
        a->under_way++;
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
    for (; d->batch_next < d->batch_count; d->batch_next++) {
        const struct job_record *record = &d->batch[d->batch_next];
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
        if ((d->barrier && open) || !has_room_for(d, record))
            return sent;
        send_record(d, record);
        note_reached(d, record->seq);
        note_under_way(d);
        sent++;
    }
    note_reached(d, d->batch_reached);
    drop_batch(d);
    return sent;
}

/* Sends what was read, as far as it may go out now. */
static void send_more(struct drain *d)
{
    if (d->pass != d->backlog->doubts.pass)
        drop_batch(d); /* something that waits before it goes first now */
    if (!d->batch || d->state != DRAIN_RUNNING)
        return;
    CRASH_POINT("before_replay");
    uint64_t first = d->batch_next < d->batch_count ? d->batch[d->batch_next].seq : 0;
    uint32_t sent = send_batch(d);
    if (sent > 0)
        LOG(LOG_DEBUG, "drain_sent", LOG_N("queue", d->backlog->id),
            LOG_N("upstream", d->link.upstream->id), LOG_N("messages", sent),
            LOG_N("first", first));
    CRASH_POINT("after_replay");
    d->tokens -= d->tokens < sent ? d->tokens : sent;
}

static void take_batch(struct drain *d, struct job *job)
{
    ENSURE(!d->batch);
    struct aside *a = job->read.only ? asides_find(&d->backlog->asides, job->read.only) : NULL;
    if (job->read.only && (!a || a->state != ASIDE_TRYING || a->cursor != job->read.after))
        return; /* RabbitMQ has failed at an older one of it meanwhile */
    d->batch = job->read.records;
    d->batch_slab = job->read.slab;
    d->batch_count = job->read.count;
    d->batch_next = 0;
    d->batch_reached = job->read.reached;
    d->batch_only = job->read.only;
    job->read.records = NULL;
    job->read.slab = NULL;
    if (a)
        a->scanned = job->read.at_end ? job->read.until : 0;
    else
        d->at_end = job->read.at_end && !d->more;
    if (d->at_end && !a)
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
        advance(d);
        return; /* the channel was opened anew meanwhile, or it begins at the first record again */
    }
    if (job->status != STATUS_OK) {
        LOG_OFTEN(LOG_ERROR, "read_failed", LOG_N("queue", job->queue),
                  LOG_T("reason", job->error));
        upstream_abort(d->link.upstream, "the queue cannot be read");
        return;
    }
    take_batch(d, job);
    send_more(d);
    advance(d);
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
    look_again(d);
    return true;
}

static struct job *new_read(struct drain *d, uint32_t records_max)
{
    struct job *job = job_new(JOB_READ, d->backlog->id, on_read, d->handle);
    job->context = d->epoch;
    job->read.records_max = records_max;
    job->read.bytes_max = bytes_left(d) < BATCH_BYTES ? bytes_left(d) : BATCH_BYTES;
    job->read.framing = framing_of(d);
    return job;
}

/* What has just been stored is still in memory. */
static void take_newest(struct drain *d, uint32_t room)
{
    ENSURE(d->newest.count > 0 && room > 0); /* or the end was read */
    d->batch_count = newest_take(&d->newest, room, &d->batch, &d->batch_slab);
    d->batch_next = 0;
    d->batch_reached = d->batch[d->batch_count - 1].seq;
    d->at_end = d->newest.count == 0;
    send_more(d);
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

/* RabbitMQ has nacked on this channel what is to be tried again. Once the leader of a quorum queue
 * has gone, RabbitMQ 3.10 nacks for ever what a channel sends there that knew it. What a silent
 * destination owes goes out again with the channel: so with one of those only the last try does. */
static bool wants_new_channel(const struct drain *d, const struct aside *a)
{
    bool is_last = a->tries + 1 >= d->backlog->rt->config->drain.nack_limit;
    return a->failing != 0 && d->nacked && (d->sent.parked == 0 || is_last);
}

/* Reads for the first of those aside that may have something sent; one that has caught up with all
 * others is no longer aside. False if there was nothing to do. */
static bool read_aside(struct drain *d, uint32_t room)
{
    struct asides *asides = &d->backlog->asides;
    for (uint32_t i = 0; i < asides->count; i++) {
        struct aside *a = &asides->all[i];
        bool has_caught_up = (a->scanned > 0 && a->scanned == d->read_after) ||
                             (a->cursor >= d->read_after && (a->fine > 0 || d->at_end));
        if (a->state == ASIDE_TRYING && has_caught_up && a->under_way == 0 && a->failing == 0) {
            asides_remove(asides, a);
            look_again(d);
            i--;
            continue;
        }
        uint32_t most = aside_room(a, window_of(d));
        if (most == 0 || doubts_hold(&d->backlog->doubts, a->destination) || has_caught_up ||
            a->cursor >= d->read_after)
            continue;
        if (wants_new_channel(d, a)) {
            drain_move(d, DRAIN_RENEWING);
            return true;
        }
        struct job *job = new_read(d, most < room ? most : room);
        job->read.after = a->cursor;
        job->read.until = d->read_after;
        job->read.only = a->destination;
        d->reading = true;
        spooler_post(d->backlog->rt->spooler, job);
        return true;
    }
    return false;
}

/* Too many have messages that come before those of all others, which wait for them then. One whose
 * place has not been reached, since the queue is read from its beginning again, holds up nobody. */
static bool asides_hold_others(const struct drain *d)
{
    const struct asides *asides = &d->backlog->asides;
    uint32_t busy = 0;
    for (uint32_t i = 0; i < asides->count; i++) {
        const struct aside *a = &asides->all[i];
        busy += a->state != ASIDE_SILENT && (a->cursor < d->read_after || a->under_way > 0);
    }
    return busy >= ASIDES_MAX;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void read_more(struct drain *d)
{
    if (d->batch || d->reading || (d->barrier && in_flight_has_sent(&d->sent, 0)))
        return;
    d->barrier = false;
    if (!begin_pass(d))
        return;
    const struct config *config = d->backlog->rt->config;
    uint32_t window = window_of(d), taken = in_flight_in_window(&d->sent);
    uint32_t room = taken < window && bytes_left(d) > 0 ? window - taken : 0;
    bool is_full =
        taken > 0 && (room < smaller(window / 2, BATCH_MIN) ||
                      bytes_left(d) < smaller(config->pool.window_bytes / 2, BATCH_MIN_BYTES));
    if (is_full && !d->at_end)
        note_full(d);
    if (config->drain.rate > 0 && room > d->tokens)
        room = d->tokens;
    if (d->backlog->paused || room == 0 || !runtime_serves(d->backlog->rt) ||
        stream_is_full(stream_of(d)) || read_aside(d, room))
        return;
    bool waits = is_full && d->confirms && !d->newest.is_whole; /* a small read costs too much */
    if (d->at_end || waits || asides_hold_others(d))
        return;
    read_others(d, room);
}

/* The end was read and everything that was read is settled: what still counts as waiting cannot be
 * read. It stays where it is, in nobody's way. */
static void set_damaged_aside(struct drain *d)
{
    if (d->state != DRAIN_RUNNING || d->reading || d->batch || !d->at_end || d->sent.count > 0 ||
        d->backlog->asides.count > 0 || d->pass != d->backlog->doubts.pass ||
        d->backlog->waiting <= d->skipped)
        return;
    LOG(LOG_ERROR, "records_set_aside", LOG_T("user", d->backlog->user),
        LOG_T("vhost", d->backlog->vhost), LOG_N("messages", d->backlog->waiting - d->skipped));
    d->backlog->waiting = d->skipped;
}

/* What waits still is for destinations set aside: nothing more to do until one comes back. */
static bool is_done(const struct drain *d)
{
    return d->backlog->waiting == 0 || (d->at_end && d->pass == d->backlog->doubts.pass &&
                                        !d->batch && d->backlog->asides.count == 0 &&
                                        d->sent.count == 0 && d->backlog->waiting <= d->skipped);
}

/* One that follows its queue has no end. When it is done it leaves a connection that it has alone,
 * as any other, and a channel that is not what `drain.confirms` has become. */
static bool has_ended(const struct drain *d)
{
    const struct backlog *backlog = d->backlog;
    bool stays = backlog->is_followed && !backlog->alone && d->confirms == wants_confirms(d);
    return backlog->paused || (is_done(d) && !stays);
}

static void advance(struct drain *d)
{
    set_damaged_aside(d);
    bool is_over = has_ended(d);
    if (d->state == DRAIN_DELETING && d->sent.count == 0)
        drain_move(d, DRAIN_RESTING);
    if (d->state == DRAIN_RESTING) {
        if (is_over)
            finish(d);
        else if (runtime_now(d->backlog->rt) >= d->backlog->drain_again_ms)
            open_channel(d);
        return;
    }
    if (d->state == DRAIN_RUNNING) {
        send_more(d);
        uint32_t newest;
        do { /* again if all that was taken from memory is held back */
            newest = d->newest.count;
            read_more(d);
        } while (d->newest.count > 0 && d->newest.count < newest);
    }
    if (d->state == DRAIN_RENEWING && !in_flight_has_sent(&d->sent, 0))
        close_channel(d);
    if (d->state != DRAIN_RUNNING)
        return;
    if (d->reading || (d->batch && d->confirms))
        return;
    if (is_over && in_flight_in_window(&d->sent) == 0) {
        if (d->confirms || d->last_tag == 0)
            close_channel(d);
    } else if (!d->confirms && d->sent.count > 0 &&
               (d->at_end || d->barrier || d->backlog->paused || d->batch ||
                d->sent.count >= window_of(d) || bytes_left(d) == 0)) {
        close_channel(d); /* close-ok is the only confirm there is */
    }
}

static void wait_for_deletes(struct drain *d)
{
    rewind_open(d); /* or what is read again would be sent again */
    drain_move(d, DRAIN_DELETING);
    advance(d);
}

void drain_more(struct drain *d)
{
    look_again(d);
    d->more = true; /* what is being read just now may not show it */
    advance(d);
}

void drain_appended(struct drain *d, const struct job *job)
{
    struct framing framing = framing_of(d);
    if (!d->newest.is_whole || !newest_add(&d->newest, &framing, job)) {
        drain_more(d);
        return;
    }
    d->at_end = d->newest.count == 0;
    advance(d);
}

void drain_go_on(struct drain *d)
{
    advance(d);
}

static void delete_again(struct drain *d)
{
    struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(&d->sent, &at)) != NULL;) {
        if (entry->state != SENT_UNDELETED)
            continue;
        in_flight_set(&d->sent, entry, SENT_CONFIRMED);
        delete_entries(d, &entry->seq, 1);
    }
}

/* RabbitMQ has not confirmed it for so long. */
static void set_silent(struct drain *d, const struct sent *first, uint64_t now_ms)
{
    uint64_t destination = first->destination;
    uint32_t timeout = d->backlog->rt->config->pool.confirm_timeout_ms;
    char exchange[256], routing_key[256];
    name_of(first, exchange, routing_key);
    struct aside *a = set_aside(d, destination);
    aside_is_silent(a, now_ms, SILENT_LONG * timeout);
    uint32_t places = in_flight_in_window(&d->sent);
    struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(&d->sent, &at)) != NULL;)
        if (entry->destination == destination && entry->state == SENT_UNCONFIRMED)
            in_flight_set(&d->sent, entry, SENT_PARKED);
    give_back(d, places - in_flight_in_window(&d->sent));
    LOG(LOG_WARN, "confirms_stalled", LOG_T("user", d->backlog->user),
        LOG_T("vhost", d->backlog->vhost), LOG_T("exchange", exchange),
        LOG_T("routing_key", routing_key), LOG_N("unconfirmed", a->under_way));
}

/* Those whose time has come are tried again; what a silent one owes is sent once more. */
static void wake_asides(struct drain *d, uint64_t now_ms)
{
    struct asides *asides = &d->backlog->asides;
    for (uint32_t i = 0; i < asides->count; i++) {
        struct aside *a = &asides->all[i];
        bool silent = a->state == ASIDE_SILENT;
        if (!aside_wakes(a, now_ms) || !silent)
            continue;
        const struct sent *entry;
        for (uint32_t at = 0; (entry = in_flight_next(&d->sent, &at)) != NULL;)
            if (entry->destination == a->destination && sent_is_open(entry))
                aside_rewind(a, entry->seq);
        a->under_way = 0;
        give_back(d, in_flight_forget_open(&d->sent, a->destination));
    }
}

/* What was published behind it needs it: so it is waited for, as long as the connection lives. */
static void tell_unanswered(struct drain *d, const struct sent *entry)
{
    if (d->told == entry->seq)
        return;
    d->told = entry->seq;
    LOG(LOG_WARN, "declaration_stalled", LOG_T("user", d->backlog->user),
        LOG_T("vhost", d->backlog->vhost), LOG_N("seq", entry->seq),
        LOG_T("method", method_name(entry->method)));
}

static void look_for_silence(struct drain *d, uint64_t now_ms)
{
    uint32_t timeout = d->backlog->rt->config->pool.confirm_timeout_ms;
    const struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(&d->sent, &at)) != NULL;) {
        if (entry->state != SENT_UNCONFIRMED || now_ms - entry->sent_ms < timeout)
            continue;
        if (entry->tag > 0)
            set_silent(d, entry, now_ms);
        else
            tell_unanswered(d, entry);
    }
}

void drain_tick(struct drain *d, uint64_t now_ms)
{
    if (d->deadline_ms && now_ms >= d->deadline_ms) {
        upstream_abort(d->link.upstream,
                       "no answer to the drain's channel within pool.confirm_timeout");
        return; /* and the drain is gone */
    }
    delete_again(d);
    if ((d->state == DRAIN_RUNNING || d->state == DRAIN_RENEWING) && d->confirms) {
        wake_asides(d, now_ms);
        look_for_silence(d, now_ms);
    }
    uint32_t rate = d->backlog->rt->config->drain.rate;
    d->tokens += (uint32_t)((uint64_t)rate * RUNTIME_TICK_MS / 1000) + 1;
    if (d->tokens > rate)
        d->tokens = rate;
    if (rate > 0 || d->state == DRAIN_RESTING || d->backlog->asides.count > 0)
        advance(d); /* which may end the drain */
}

/* ---- what RabbitMQ says ---- */

/* RabbitMQ failed at a record that was alone. Either it is rejected, or it stays where it is, and
 * so does what is behind it. */
static void judge(struct drain *d, struct sent *entry, uint16_t code, const char *text)
{
    struct backlog *backlog = d->backlog;
    const struct config *config = backlog->rt->config;
    struct circumstances circumstances = {
        .tries = search_failed(&backlog->search, entry->seq),
        .nack_limit = config->drain.nack_limit,
        .missing_waits = config->drain.missing == MISSING_WAIT,
    };
    if (remedy_of(blame_of(code, text), &circumstances) == REMEDY_AGAIN) {
        search_again(&backlog->search, entry->seq);
        backlog->drain_again_ms = runtime_now(backlog->rt) + blame_pause_ms(circumstances.tries);
        return;
    }
    search_given_up(&backlog->search);
    struct aside *a = asides_find(&backlog->asides, entry->destination);
    if (a)
        aside_taken(a, entry->seq);
    in_flight_set(&d->sent, entry, SENT_CONFIRMED);
    forget_declared(d, entry);
    reject_seq(d, entry->seq, code, text);
}

/* The channel is closed over one of what was sent: the first that is not confirmed, if it was
 * alone, else one that has to be found. */
static void on_refused(struct drain *d, uint16_t code, const char *text)
{
    uint32_t count;
    struct sent *first = in_flight_first_open(&d->sent, &count);
    if (!first)
        return;
    if (count == 1) {
        judge(d, first, code, text);
        return;
    }
    const struct sent *accused = in_flight_accused(&d->sent, text);
    search_narrow(&d->backlog->search, count, accused ? accused->seq : 0);
}

static void on_exception(struct drain *d, const struct frame *frame)
{
    if (d->state >= DRAIN_DELETING)
        return; /* no channel of ours is open */
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t method;
    void *decoded;
    uint16_t code = 0;
    char text[256] = "";
    if (method_decode_reply(&arena, frame->payload, frame->payload_len, &method, &decoded)) {
        const amqp_channel_close_t *m = decoded;
        code = m->reply_code;
        snprintf(text, sizeof text, "%.*s", (int)m->reply_text.len,
                 (const char *)m->reply_text.bytes);
    }
    method_arena_deinit(&arena);
    wire_send_plain(stream_of(d), d->link.channel, AMQP_CHANNEL_CLOSE_OK_METHOD);
    if (d->state == DRAIN_OPENING) {
        upstream_abort(d->link.upstream, "RabbitMQ refused the drain's channel.open");
        return;
    }
    LOG_OFTEN(LOG_INFO, "drain_refused", LOG_T("user", d->backlog->user),
              LOG_T("vhost", d->backlog->vhost), LOG_N("code", code), LOG_T("reason", text),
              LOG_N("sent", d->sent.count));
    on_refused(d, code, text);
    if (d->state == DRAIN_CLOSING) /* they crossed: its close-ok is still to come */
        rewind_open(d);
    else
        wait_for_deletes(d);
}

static void on_close_ok(struct drain *d)
{
    if (!d->confirms)
        confirm(d, &(struct verdict){.all = true});
    wait_for_deletes(d);
}

static void on_method(struct drain *d, const struct frame *frame)
{
    amqp_method_number_t method = method_number(frame->payload, frame->payload_len);
    switch (method) {
    case AMQP_CHANNEL_OPEN_OK_METHOD:
        if (d->state != DRAIN_OPENING)
            return;
        if (d->confirms) {
            wire_send_plain(stream_of(d), d->link.channel, AMQP_CONFIRM_SELECT_METHOD);
            expect_answer(d, DRAIN_SELECTING);
        } else {
            drain_move(d, DRAIN_RUNNING);
        }
        break;
    case AMQP_CONFIRM_SELECT_OK_METHOD:
        if (d->state != DRAIN_SELECTING)
            return;
        drain_move(d, DRAIN_RUNNING);
        break;
    case AMQP_BASIC_ACK_METHOD:
    case AMQP_BASIC_NACK_METHOD:
        if (frame->payload_len >= 13)
            confirm(d, &(struct verdict){.tag = wire_get64(frame->payload + 4),
                                         .multiple = frame->payload[12] & 1,
                                         .nack = method == AMQP_BASIC_NACK_METHOD});
        break;
    case AMQP_BASIC_RETURN_METHOD:
        returned_begin(&d->returned, frame);
        return;
    case AMQP_CHANNEL_CLOSE_METHOD:
        on_exception(d, frame);
        return;
    case AMQP_CHANNEL_CLOSE_OK_METHOD:
        if (d->state == DRAIN_CLOSING)
            on_close_ok(d);
        return;
    default:
        if (rule_has(method, RULE_DONE))
            confirm_declaration(d);
        return;
    }
    advance(d);
}

static void on_frame(struct link *link, struct slab *slab, const struct frame *frame)
{
    (void)slab;
    struct drain *d = LIST_ENTRY(link, struct drain, link);
    if (frame->type == FRAME_METHOD) {
        on_method(d, frame);
    } else if (frame->type == FRAME_HEADER && d->returned.active) {
        in_flight_note_return(&d->sent, &d->returned, frame);
        d->returned.active = false;
    }
}

static void on_lost(struct link *link)
{
    struct drain *d = LIST_ENTRY(link, struct drain, link);
    const struct upstream_end *end = &link->upstream->end;
    struct backlog *backlog = d->backlog;
    /* RabbitMQ could not stand something that was sent on this connection. It names the method, or
     * none (a bad content frame): was it one of ours? */
    bool is_parked =
        d->sent.parked > 0 && (end->cause == 0 || end->cause == AMQP_BASIC_PUBLISH_METHOD);
    if (end->code && blame_of(end->code, end->text) != BLAME_BROKER &&
        (is_parked || in_flight_has_sent(&d->sent, end->cause))) {
        backlog->alone = true;
        on_refused(d, end->code, end->text);
    }
    drain_stop(d);
    backlog_changed(backlog);
}

static const struct link_handler handler = {.on_frame = on_frame, .on_lost = on_lost};
