#include "drain/drain.h"

#include <stdio.h>
#include <stdlib.h>

#include "amqp/method.h"
#include "amqp/rules.h"
#include "amqp/wire.h"
#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "base/states.h"
#include "drain/apart.h"
#include "drain/backlog.h"
#include "drain/blame.h"
#include "drain/drain_struct.h"
#include "drain/left.h"
#include "drain/places.h"
#include "drain/probe.h"
#include "drain/reading.h"
#include "drain/removal.h"
#include "drain/sending.h"
#include "drain/verdict.h"
#include "peer/runtime.h"
#include "peer/send.h"

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

static const struct link_handler handler;

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

/* ---- the channel's life ---- */

static void open_channel(struct drain *d)
{
    wire_send_plain(drain_stream(d), d->link.channel, AMQP_CHANNEL_OPEN_METHOD);
    d->last_tag = d->heard_tag = 0;
    probe_end(&d->probe);
    marks_begin(&d->marks);
    in_flight_new_channel(&d->sent);
    d->epoch++;
    d->nacked = false;
    reading_again(d);
    expect_answer(d, DRAIN_OPENING);
}

static void close_channel(struct drain *d)
{
    amqp_channel_close_t close = {.reply_code = 200, .reply_text = bytes_of("drained")};
    wire_send(drain_stream(d), d->link.channel, AMQP_CHANNEL_CLOSE_METHOD, &close);
    expect_answer(d, DRAIN_CLOSING);
}

static void read_from(struct drain *d, const struct sent *entry)
{
    d->read_after = entry->seq - 1;
    d->skipped = entry->passed_over;
    reading_again(d);
}

/* What RabbitMQ has not answered for will be read, and sent, again. */
static void rewind_open(struct drain *d, bool keeps_silent)
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
            read_from(d, entry);
    }
    apart_begin_again(d, runtime_now(d->backlog->rt), keeps_silent);
    places_freed(d, in_flight_forget_open(&d->sent, 0));
    batch_drop(&d->batch);
}

static void let_go_of_upstream(struct drain *d)
{
    struct upstream *u = d->link.upstream;
    upstream_detach(&d->link);
    if (u->use == UPSTREAM_FOR_DRAIN && u->state == UPSTREAM_OPEN)
        upstream_close(u);
}

/* What RabbitMQ has answered for, and the disk has not taken out of the queue: the next drain looks
 * at it again. */
static void rewind_asides(struct drain *d)
{
    const struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(&d->sent, &at)) != NULL;) {
        struct aside *a = asides_find(&d->backlog->asides, entry->destination);
        if (a)
            aside_rewind(a, entry->seq);
    }
}

static void drain_free(struct drain *d)
{
    rewind_open(d, false);
    rewind_asides(d);
    d->backlog->drain = NULL;
    d->backlog->only_asides = false;
    handles_remove(d->handle);
    probe_deinit(&d->probe);
    marks_clear(&d->marks);
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

/* ---- what is next ---- */

/* The end was read and everything that was read is settled: what still counts as waiting cannot be
 * read. It stays where it is, in nobody's way. A copy in doubt that is being taken out counts until
 * that is told, and a read that was asked for before may not have seen it any more. */
static void set_damaged_aside(struct drain *d)
{
    if (d->state != DRAIN_RUNNING || d->reading || d->batch.records || !d->at_end ||
        d->sent.count > 0 || d->backlog->asides.count > 0 || doubts_any(&d->backlog->doubts) ||
        d->pass != d->backlog->doubts.pass || d->backlog->waiting <= d->skipped)
        return;
    LOG(LOG_ERROR, "records_set_aside", LOG_T("user", d->backlog->user),
        LOG_T("vhost", d->backlog->vhost), LOG_N("messages", d->backlog->waiting - d->skipped));
    d->backlog->damaged += d->backlog->waiting - d->skipped;
    d->backlog->waiting = d->skipped;
}

/* What waits still is for destinations set aside: nothing more to do until one comes back. */
static bool is_done(const struct drain *d)
{
    return d->backlog->waiting == 0 || (d->at_end && d->pass == d->backlog->doubts.pass &&
                                        !d->batch.records && d->backlog->asides.count == 0 &&
                                        d->sent.count == 0 && d->backlog->waiting <= d->skipped);
}

static bool wants_confirms(const struct drain *d)
{
    return d->link.upstream->offers_confirms &&
           d->backlog->rt->config->drain.confirms == CONFIRMS_AUTO;
}

/* One that follows its queue has no end. When it is done it leaves a connection that it has alone,
 * as any other, and a channel that is not what `drain.confirms` has become. */
static bool has_ended(const struct drain *d)
{
    const struct backlog *backlog = d->backlog;
    bool stays = backlog->is_followed && !backlog->alone && d->confirms == wants_confirms(d);
    return backlog->paused || (is_done(d) && !stays);
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
        backlog->stuck_ms = 0;
        declared_clear(&backlog->declared);
        names_forget_promises(&backlog->names);
    }
    if (backlog->waiting == 0)
        backlog->alone = false;
    let_go_of_upstream(d);
    drain_free(d);
    backlog_changed(backlog);
}

/* With nothing buffered publishers wait for its end, which may be far: but for what is aside they
 * need not. */
static void look_for_others(struct drain *d)
{
    struct backlog *backlog = d->backlog;
    bool is_at_end = d->state == DRAIN_RUNNING && d->at_end && d->pass == backlog->doubts.pass &&
                     (!d->batch.records || d->batch.only);
    if (backlog->only_asides || runtime_buffers(backlog->rt) || !is_at_end ||
        backlog->asides.count == 0 || d->sent.unconfirmed + d->sent.parked > apart_open(d))
        return;
    backlog->only_asides = true;
    backlog_changed(backlog); /* the drain may be gone */
}

static void close_if_over(struct drain *d, bool is_over)
{
    if (d->state != DRAIN_RUNNING || d->reading || (d->batch.records && d->confirms))
        return;
    if (is_over && in_flight_in_window(&d->sent) == 0) {
        if (d->confirms || d->last_tag == 0)
            close_channel(d);
    } else if (!d->confirms && d->sent.count > 0 &&
               (d->at_end || d->barrier || d->backlog->paused || d->batch.records ||
                d->sent.count >= places_window(d) || places_bytes_left(d) == 0)) {
        close_channel(d); /* close-ok is the only confirm there is */
    }
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
        sending_go_on(d);
        if (!reading_more(d))
            drain_move(d, DRAIN_RENEWING);
    }
    if (d->state == DRAIN_RENEWING && !in_flight_has_sent(&d->sent, 0))
        close_channel(d);
    close_if_over(d, is_over);
    look_for_others(d);
}

static void wait_for_deletes(struct drain *d)
{
    rewind_open(d, false); /* or what is read again would be sent again */
    drain_move(d, DRAIN_DELETING);
    advance(d);
}

/* What is stuck there is not waited for: all others go on on a new one. */
static void leave_channel(struct drain *d)
{
    struct upstream *u = d->link.upstream;
    LOG(LOG_INFO, "drain_channel_left", LOG_T("user", d->backlog->user),
        LOG_T("vhost", d->backlog->vhost), LOG_N("upstream", u->id),
        LOG_N("unconfirmed", d->sent.unconfirmed + d->sent.parked));
    left_take(d->backlog, &d->link);
    ENSURE(upstream_attach(u, &d->link));
    rewind_open(d, true);
    drain_move(d, DRAIN_DELETING);
}

/* Queues may be silent, and the channel is not: it answers a method behind what was published.
 * False: the connection is given up, and the drain is gone. */
static bool look_at_channel(struct drain *d, uint64_t now_ms)
{
    bool has_room = links_have_room(&d->link.upstream->links, false) &&
                    d->backlog->events->may_open(d->backlog);
    bool may_leave = d->backlog->left < LEFT_MAX && has_room;
    uint32_t timeout = d->backlog->rt->config->pool.confirm_timeout_ms;
    enum probe_finding finding = probe_finding(&d->probe, timeout, apart_soon_ms(d), now_ms);
    if ((finding != PROBE_OPEN && !may_leave) || !apart_channel_seems_stuck(d, now_ms)) {
        apart_look_for_silence(d, now_ms);
    } else if (finding == PROBE_NONE) {
        probe_send(&d->probe, d->backlog, &d->link, d->last_tag, now_ms);
        marks_add(&d->marks, d->last_tag, false);
    } else if (finding == PROBE_CHANNEL_IS_STUCK) {
        apart_channel_is_stuck(d, now_ms);
        leave_channel(d);
    } else if (finding == PROBE_CONNECTION_IS_STUCK) {
        apart_channel_is_stuck(d, now_ms);
        upstream_abort(d->link.upstream, "no answer within pool.confirm_timeout");
        return false;
    }
    return true;
}

struct drain *drain_start(struct backlog *backlog, struct upstream *u)
{
    struct drain *d = calloc(1, sizeof *d);
    ENSURE(d);
    d->link.handler = &handler;
    d->go_on = advance;
    d->backlog = backlog;
    if (!upstream_attach(u, &d->link)) {
        free(d);
        return NULL;
    }
    d->handle = handles_add(d);
    probe_init(&d->probe);
    d->pass = backlog->doubts.pass;
    asides_begin_pass(&backlog->asides, d->pass); /* the drain before did not get there, perhaps */
    d->started_ms = runtime_now(backlog->rt);
    search_begin(&backlog->search, backlog_window(backlog));
    d->confirms = wants_confirms(d);
    d->is_apart = backlog->alone;
    if (!d->confirms)
        asides_clear(&backlog->asides); /* nobody would say when their time has come */
    LOG(LOG_INFO, "drain_started", LOG_T("user", backlog->user), LOG_T("vhost", backlog->vhost),
        LOG_N("messages", backlog->waiting), LOG_N("upstream", u->id));
    d->state = DRAIN_RESTING; /* a new one; RabbitMQ may have failed on another connection */
    if (runtime_now(backlog->rt) >= backlog->drain_again_ms)
        open_channel(d);
    return d;
}

void drain_more(struct drain *d)
{
    reading_again(d);
    d->backlog->only_asides = false;
    d->more = true; /* what is being read just now may not show it */
    advance(d);
}

void drain_appended(struct drain *d, const struct job *job)
{
    d->backlog->only_asides = false;
    struct framing framing = drain_framing(d);
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

/* What is asked stands behind what was published, and a large message takes its time on a slow
 * line. */
static void put_off(struct drain *d, uint64_t ms)
{
    uint64_t deadline_ms = ms + d->backlog->rt->config->pool.confirm_timeout_ms;
    if (d->deadline_ms > 0 && deadline_ms > d->deadline_ms)
        d->deadline_ms = deadline_ms;
    probe_put_off(&d->probe, ms);
}

void drain_tick(struct drain *d, uint64_t now_ms)
{
    bool is_blocked = d->link.upstream->blocked; /* its silence is about all, and no failure */
    if (is_blocked)
        put_off(d, now_ms);
    else if (stream_is_full(drain_stream(d)))
        put_off(d, drain_stream(d)->last_write_ms);
    if (d->deadline_ms && now_ms >= d->deadline_ms) {
        upstream_abort(d->link.upstream,
                       "no answer to the drain's channel within pool.confirm_timeout");
        return; /* and the drain is gone */
    }
    removal_retry(d);
    bool reads_again = d->has_failed;
    d->has_failed = false;
    bool sends = d->state == DRAIN_RUNNING || d->state == DRAIN_RENEWING;
    if (sends && d->confirms && !is_blocked) {
        apart_wake(d, now_ms);
        apart_forget_stuck(d, now_ms);
        if (!look_at_channel(d, now_ms))
            return;
    }
    uint32_t rate = d->backlog->rt->config->drain.rate;
    allowance_refill(&d->allowance, rate, now_ms);
    bool waits = d->state == DRAIN_DELETING || d->state == DRAIN_RESTING;
    if (rate > 0 || waits || reads_again || d->backlog->asides.count > 0)
        advance(d); /* which may end the drain */
}

/* ---- what RabbitMQ says ---- */

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
    wire_send_plain(drain_stream(d), d->link.channel, AMQP_CHANNEL_CLOSE_OK_METHOD);
    if (d->state == DRAIN_OPENING) {
        upstream_abort(d->link.upstream, "RabbitMQ refused the drain's channel.open");
        return;
    }
    LOG_OFTEN(LOG_INFO, "drain_refused", LOG_T("user", d->backlog->user),
              LOG_T("vhost", d->backlog->vhost), LOG_N("code", code), LOG_T("reason", text),
              LOG_N("sent", d->sent.count));
    if (blame_is_end_of_vhost(code, text, d->backlog->vhost)) {
        upstream_abort(d->link.upstream, "the vhost is being deleted");
        return; /* and the drain is gone */
    }
    if (code == 404)
        names_note_missing(&d->backlog->names, text, d->backlog->vhost);
    verdict_closed(d, code, text, true);
    if (d->state == DRAIN_CLOSING) /* they crossed: its close-ok is still to come */
        rewind_open(d, false);
    else
        wait_for_deletes(d);
}

static void on_close_ok(struct drain *d)
{
    if (!d->confirms)
        verdict_apply(d, &(struct verdict){.all = true});
    wait_for_deletes(d);
}

static void on_mark(struct drain *d)
{
    uint64_t tag = marks_answered(&d->marks);
    if (tag > d->heard_tag)
        d->heard_tag = tag;
    if (tag >= d->probe.tag)
        probe_end(&d->probe);
}

static void on_method(struct drain *d, const struct frame *frame)
{
    amqp_method_number_t method = method_number(frame->payload, frame->payload_len);
    switch (method) {
    case AMQP_CHANNEL_OPEN_OK_METHOD:
        if (d->state != DRAIN_OPENING)
            return;
        if (d->confirms) {
            wire_send_plain(drain_stream(d), d->link.channel, AMQP_CONFIRM_SELECT_METHOD);
            expect_answer(d, DRAIN_SELECTING);
        } else {
            drain_move(d, DRAIN_RUNNING);
        }
        break;
    case AMQP_CONFIRM_SELECT_OK_METHOD:
        if (d->state == DRAIN_SELECTING)
            drain_move(d, DRAIN_RUNNING);
        else
            on_mark(d);
        break;
    case AMQP_BASIC_ACK_METHOD:
    case AMQP_BASIC_NACK_METHOD:
        if (frame->payload_len >= 13)
            verdict_apply(d, &(struct verdict){.tag = wire_get64(frame->payload + 4),
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
        if (!rule_has(method, RULE_DONE) || !verdict_declared(d))
            return;
        break;
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
        verdict_closed(d, end->code, end->text, d->is_apart);
    }
    drain_stop(d);
    backlog_changed(backlog);
}

static const struct link_handler handler = {.on_frame = on_frame, .on_lost = on_lost};
