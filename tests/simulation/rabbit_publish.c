/* What RabbitMQ does with messages. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/wire.h"
#include "base/assert.h"
#include "history.h"
#include "life.h"
#include "rabbit_inside.h"
#include "tally.h"

enum {
    LEAVES_US = 1000000,
    SILENT_US = 20000000, /* ten times the shortest pool.confirm_timeout of run.c */
    ORPHAN_US = 999000,   /* a second of the proxy's, which counts milliseconds */
    COMMIT_OK_BYTES = FRAME_OVERHEAD_BYTES + 4, /* the whole frame of tx.commit-ok */
};

/* ---- a publish, frame by frame ---- */

void rabbit_publish_begins(struct rabbit_connection *c, uint16_t number, const struct frame *frame)
{
    struct rabbit_channel *ch = c->channels[number];
    struct publish p;
    char exchange[256], key[256];
    CHECK(publish_parse(frame->payload, frame->payload_len, &p), "P7: a malformed basic.publish");
    CHECK(!ch->is_inside, "P7: basic.publish inside of a message");
    CHECK(!p.immediate, "P7: immediate reaches RabbitMQ");
    snprintf(exchange, sizeof exchange, "%.*s", p.exchange_len, (const char *)p.exchange);
    snprintf(key, sizeof key, "%.*s", p.routing_key_len, (const char *)p.routing_key);
    ch->is_inside = true;
    ch->is_mandatory = p.mandatory;
    ch->destination = destination_find(exchange, key);
    ch->body_len = ch->body_size = 0;
    free(ch->header);
    ch->header = NULL;
    c->publishes = true;
    rabbit_tell_blocked(c);
}

void rabbit_raise(struct rabbit_connection *c, uint16_t number, uint16_t code,
                  amqp_method_number_t cause)
{
    static const char odd[] = "bytes of any kind: \xff\x01";
    amqp_channel_close_t close = {
        .reply_code = code,
        .reply_text = bytes_of(rabbit.speaks_oddly ? odd
                               : code == 404 ? "NOT_FOUND - no exchange 'missing' in vhost '/'"
                               : code == 403 ? "ACCESS_REFUSED - access to exchange 'denied' in "
                                               "vhost '/' refused for user"
                               : code == 406 ? "PRECONDITION_FAILED - cannot switch from confirm "
                                               "to tx mode"
                                             : odd),
        .class_id = (uint16_t)(cause >> 16),
        .method_id = (uint16_t)cause};
    history_note("rabbit: closes channel %u with %u", number, code);
    if (rabbit.speaks_oddly)
        tally_add(TALLY_ODD_WORDS);
    rabbit_channel_lose(c, number, false);
    c->channels[number]->is_closing = true;
    talker_say(&c->talker, number, AMQP_CHANNEL_CLOSE_METHOD, &close);
}

static void give_back(struct rabbit_connection *c, uint16_t number)
{
    struct rabbit_channel *ch = c->channels[number];
    amqp_basic_return_t m = {.reply_code = 312,
                             .reply_text = bytes_of("NO_ROUTE"),
                             .exchange = bytes_of(destination_exchange(ch->destination)),
                             .routing_key = bytes_of(destination_key(ch->destination))};
    talker_say(&c->talker, number, AMQP_BASIC_RETURN_METHOD, &m);
    talker_say_content(&c->talker, number, ch->header, ch->header_len, ch->body, ch->body_size,
                       c->frame_max);
}

static void await_verdict(struct rabbit_channel *ch, uint32_t message, enum verdict verdict)
{
    if (ch->count == ch->capacity) {
        ch->capacity = ch->capacity * 2 + 16;
        ch->pending = realloc(ch->pending, ch->capacity * sizeof *ch->pending);
        ENSURE(ch->pending);
    }
    ch->pending[ch->count++] =
        (struct pending){.message = message,
                         .tag = ++ch->tag,
                         .came_us = agenda_now_us(),
                         .ready_us = agenda_now_us() + prng_below(&rabbit.prng, rabbit.confirm_us),
                         .verdict = verdict,
                         .destination = ch->destination};
}

static void note_uncommitted(struct rabbit_channel *ch, uint32_t message)
{
    if (ch->uncommitted_count == ch->uncommitted_capacity) {
        ch->uncommitted_capacity = ch->uncommitted_capacity * 2 + 16;
        ch->uncommitted =
            realloc(ch->uncommitted, ch->uncommitted_capacity * sizeof *ch->uncommitted);
        ENSURE(ch->uncommitted);
    }
    ch->uncommitted[ch->uncommitted_count++] = message;
}

static enum verdict verdict_of(enum destination d)
{
    if (d >= DEST_QUEUES || rabbit.modes[d] == QUEUE_CONFIRMS)
        return VERDICT_ACK;
    return rabbit.modes[d] == QUEUE_NACKS ? VERDICT_NACK : VERDICT_NONE;
}

static bool is_heard(struct rabbit_connection *c, const struct pending *p)
{
    return p->is_said && p->said_bytes <= end_bytes_read(end_other(c->talker.end));
}

/* Those whose confirm was read by the proxy are over; a moment later, in case it had begun to leave
 * by then and listened no more. */
static void forget_heard(struct rabbit_connection *c, struct rabbit_channel *ch)
{
    uint64_t now = agenda_now_us();
    unsigned kept = 0;
    for (unsigned i = 0; i < ch->count; i++)
        if (!is_heard(c, &ch->pending[i]) || ch->pending[i].is_missed ||
            now - ch->pending[i].said_us < LEAVES_US)
            ch->pending[kept++] = ch->pending[i];
    ch->count = kept;
}

static void excuse_pending(struct rabbit_connection *c, struct rabbit_channel *ch, bool is_left)
{
    for (unsigned i = 0; i < ch->count; i++)
        if (is_left || life_is_leaving() || ch->pending[i].is_missed ||
            !is_heard(c, &ch->pending[i]))
            ledger_excuses(ch->pending[i].message);
}

/* What the proxy had not heard of when it left, on connections whose end RabbitMQ has not seen. */
static void excuse_left(void)
{
    for (struct rabbit_connection *c = rabbit.connections; c; c = c->next)
        for (uint16_t n = 1; n <= c->highest && end_is_left(c->talker.end); n++)
            if (c->channels[n])
                excuse_pending(c, c->channels[n], false);
}

/* What a worker leaves that is killed, or closes the channel, is given up a second later. RabbitMQ
 * may read it long after that, and what was sent instead before. */
static bool is_orphaned(const struct rabbit_connection *c, uint32_t message)
{
    return c->is_own && ledger_is_left_for(message, ORPHAN_US);
}

/* What has no confirm for so long is sent once more, wherever its connection is. */
static bool is_given_up(struct rabbit_connection *c, const struct pending *p)
{
    return !is_heard(c, p) &&
           (agenda_now_us() - p->came_us >= SILENT_US || is_orphaned(c, p->message));
}

static void excuse_silent(void)
{
    for (struct rabbit_connection *c = rabbit.connections; c; c = c->next)
        for (uint16_t n = 1; n <= c->highest; n++)
            for (unsigned i = 0; c->channels[n] && i < c->channels[n]->count; i++) {
                const struct pending *p = &c->channels[n]->pending[i];
                if (is_given_up(c, p) || is_orphaned(c, p->message)) /* just before it was heard */
                    ledger_excuses(p->message);
            }
}

/* P3: what a cut connection would make the proxy send again. As many again may be for other
 * destinations, and a drain has a window of its own. */
static void check_window(struct rabbit_connection *c, const struct rabbit_channel *ch)
{
    unsigned window = life_largest_window(), count = 0;
    for (unsigned i = 0; i < ch->count; i++)
        count += ch->pending[i].destination == ch->destination && !is_heard(c, &ch->pending[i]) &&
                 !is_given_up(c, &ch->pending[i]);
    CHECK(window == 0 || count <= window,
          "P3: %u to one destination are under way on a channel, of %u", count, window);
}

static bool is_denied(enum destination d)
{
    return d == DEST_DENIED || rabbit.is_forbidden[d];
}

static void take_message(struct rabbit_connection *c, uint16_t number)
{
    struct rabbit_channel *ch = c->channels[number];
    uint32_t message = ledger_read_body(ch->body, ch->body_size);
    ch->is_inside = false;
    history_note("rabbit: message %u on channel %u", message, number);
    excuse_left();
    excuse_silent();
    ledger_compare(message, ch->header, ch->header_len);
    if (!ch->is_transactional) /* in a transaction it comes with the commit, or never */
        ledger_arrives(message, c->login, ch->serial,
                       end_is_left(c->talker.end) || is_orphaned(c, message));
    if (ch->destination < DEST_QUEUES && rabbit.breaks_over[ch->destination]) {
        ledger_excuses(message);
        tally_add(TALLY_BROKEN_OVER);
        rabbit_connection_close(c, 541, "INTERNAL_ERROR");
        return;
    }
    if (ch->destination == DEST_MISSING || is_denied(ch->destination)) {
        ledger_excuses(message);
        rabbit_raise(c, number, ch->destination == DEST_MISSING ? 404 : 403,
                     AMQP_BASIC_PUBLISH_METHOD);
        return;
    }
    if (ch->destination == DEST_NOWHERE && ch->is_mandatory) {
        ledger_excuses(message);
        give_back(c, number);
    }
    if (ch->is_transactional)
        note_uncommitted(ch, message);
    else if (ch->confirms)
        await_verdict(ch, message, verdict_of(ch->destination));
    else
        ledger_holds(message); /* nobody asked */
    if (!end_is_left(c->talker.end) && ch->confirms)
        check_window(c, ch);
    rabbit_plan_confirms(c);
}

void rabbit_content_comes(struct rabbit_connection *c, uint16_t number, const struct frame *frame)
{
    struct rabbit_channel *ch = c->channels[number];
    CHECK(ch->is_inside, "P7: content without a method on channel %u", number);
    if (frame->type == FRAME_HEADER) {
        CHECK(!ch->header, "P7: a second content header");
        ch->body_size = wire_get64(frame->payload + 4);
        ch->header = malloc(frame->payload_len);
        free(ch->body);
        ch->body = malloc(ch->body_size + 1);
        ENSURE(ch->header && ch->body);
        memcpy(ch->header, frame->payload, frame->payload_len);
        ch->header_len = frame->payload_len;
    } else {
        CHECK(ch->header && frame->payload_len <= ch->body_size - ch->body_len,
              "P7: a body frame too many");
        memcpy(ch->body + ch->body_len, frame->payload, frame->payload_len);
        ch->body_len += frame->payload_len;
    }
    if (ch->body_len == ch->body_size)
        take_message(c, number);
}

/* The answer, which is said next, is their confirm. */
void rabbit_commit(struct rabbit_connection *c, struct rabbit_channel *ch, bool keeps)
{
    for (unsigned i = 0; i < ch->uncommitted_count && keeps; i++) {
        ledger_arrives(ch->uncommitted[i], c->login, ch->serial,
                       end_is_left(c->talker.end) || is_orphaned(c, ch->uncommitted[i]));
        ledger_holds(ch->uncommitted[i]);
        await_verdict(ch, ch->uncommitted[i], VERDICT_ACK);
        struct pending *p = &ch->pending[ch->count - 1];
        p->is_said = true;
        p->said_us = agenda_now_us();
        p->said_bytes = c->talker.said_bytes + COMMIT_OK_BYTES;
    }
    ch->uncommitted_count = 0;
}

/* ---- confirms ---- */

void rabbit_channel_lose(struct rabbit_connection *c, uint16_t number, bool is_left)
{
    struct rabbit_channel *ch = c->channels[number];
    excuse_pending(c, ch, is_left);
    rabbit_lose_deliveries(ch, is_left);
    ch->count = ch->uncommitted_count = 0;
}

static void say_verdict(struct rabbit_connection *c, uint16_t number, const struct pending *p,
                        bool multiple)
{
    history_note("rabbit: %s %llu%s on channel %u", p->verdict == VERDICT_ACK ? "ack" : "nack",
                 (unsigned long long)p->tag, multiple ? " and before" : "", number);
    if (p->verdict == VERDICT_ACK) {
        amqp_basic_ack_t ack = {.delivery_tag = p->tag, .multiple = multiple};
        talker_say(&c->talker, number, AMQP_BASIC_ACK_METHOD, &ack);
    } else {
        amqp_basic_nack_t nack = {.delivery_tag = p->tag, .multiple = multiple};
        talker_say(&c->talker, number, AMQP_BASIC_NACK_METHOD, &nack);
    }
}

/* Before it is said: RabbitMQ has written the message by then. */
static void settle(struct pending *p)
{
    p->is_said = true;
    p->said_us = agenda_now_us();
    p->is_missed = life_is_leaving();
    if (p->verdict == VERDICT_ACK)
        ledger_holds(p->message);
    else
        ledger_nacked(p->message);
}

static bool is_ready(const struct pending *p)
{
    return !p->is_said && p->verdict != VERDICT_NONE && p->ready_us <= agenda_now_us();
}

static unsigned count_ready(const struct rabbit_channel *ch)
{
    unsigned ready = 0;
    for (unsigned i = 0; i < ch->count; i++)
        ready += is_ready(&ch->pending[i]);
    return ready;
}

/* The last that one confirm can cover together with all before it; `ch->count`: none. */
static unsigned last_of_lot(const struct rabbit_channel *ch)
{
    unsigned last = ch->count;
    for (unsigned i = 0; i < ch->count; i++) {
        const struct pending *p = &ch->pending[i];
        if (p->is_said)
            continue;
        if (!is_ready(p) || (last < ch->count && p->verdict != ch->pending[last].verdict))
            break;
        last = i;
    }
    return last;
}

/* All at the beginning that have the same verdict, at once; or one, out of turn. */
static void confirm_some(struct rabbit_connection *c, uint16_t number)
{
    struct rabbit_channel *ch = c->channels[number];
    forget_heard(c, ch);
    unsigned ready = count_ready(ch), last = last_of_lot(ch), first = 0;
    if (ready == 0)
        return;
    bool multiple = last < ch->count && prng_percent(&rabbit.prng, 60);
    if (!multiple) {
        uint64_t which = prng_below(&rabbit.prng, ready);
        for (last = 0; !is_ready(&ch->pending[last]) || which-- > 0;)
            last++;
        first = last;
    }
    for (unsigned i = first; i <= last; i++)
        if (!ch->pending[i].is_said)
            settle(&ch->pending[i]);
    say_verdict(c, number, &ch->pending[last], multiple);
    for (unsigned i = first; i <= last; i++)
        if (ch->pending[i].said_bytes == 0)
            ch->pending[i].said_bytes = c->talker.said_bytes;
}

static void confirm(void *arg)
{
    struct rabbit_connection *c = arg;
    for (uint16_t n = 1; n <= c->highest && c->talker.end; n++)
        if (c->channels[n] && !c->channels[n]->is_closing && !rabbit_is_frozen(c))
            confirm_some(c, n);
    rabbit_plan_confirms(c);
}

void rabbit_plan_confirms(struct rabbit_connection *c)
{
    uint64_t next = UINT64_MAX, now = agenda_now_us();
    if (!c->talker.end || rabbit_is_frozen(c) || c->is_closing)
        return;
    for (uint16_t n = 1; n <= c->highest; n++)
        for (unsigned i = 0; c->channels[n] && i < c->channels[n]->count; i++) {
            const struct pending *p = &c->channels[n]->pending[i];
            if (!p->is_said && p->verdict != VERDICT_NONE && p->ready_us < next)
                next = p->ready_us;
        }
    if (next == UINT64_MAX)
        agenda_cancel(&c->confirm);
    else
        agenda_in(&c->confirm, next > now ? next - now : 1, confirm, c);
}

void rabbit_speak_again(struct rabbit_connection *c, enum destination d)
{
    for (uint16_t n = 1; n <= c->highest; n++)
        for (unsigned i = 0; c->channels[n] && i < c->channels[n]->count; i++) {
            struct pending *p = &c->channels[n]->pending[i];
            if (p->destination == d && p->verdict == VERDICT_NONE) {
                p->verdict = VERDICT_ACK;
                p->ready_us = agenda_now_us();
            }
        }
    rabbit_plan_confirms(c);
}
