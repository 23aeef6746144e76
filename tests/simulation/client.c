#include "client.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/wire.h"
#include "base/assert.h"
#include "client_script.h"
#include "consumer.h"
#include "history.h"
#include "life.h"
#include "rabbit.h"
#include "sim_uv.h"
#include "talker.h"
#include "tally.h"
#include "unruly.h"

enum { CHANNELS = 4, OUTSIDE = UINT_MAX, NOT_FOUND = 404 };

/* A publish that was not answered for. */
struct open_publish {
    uint32_t message;
    uint64_t tag;         /* with confirms */
    unsigned transaction; /* of its channel; OUTSIDE: of none */
};

struct client_channel {
    bool is_open, confirms, is_transactional, is_closing;
    struct lane *lane;
    uint64_t tag;
    struct open_publish open[SCRIPT_MAX]; /* in a transaction: not committed, or being committed */
    unsigned open_count;
    bool asks_for_missing; /* something of it names an exchange that is not there */
    unsigned transactions, transactions_over; /* asked to be committed or rolled back; answered */
    struct consumer_channel reads;
};

struct simulated_client {
    struct simulated_client *next;
    struct talker talker;
    struct script script;
    unsigned at; /* the next act */
    unsigned id, ends_before;
    struct event event, hearing, gone;
    uint16_t given_back_on; /* RabbitMQ returns a message: nothing else may come there; 0: none */
    bool is_given_back;     /* its body begins */
    uint64_t given_back_left;
    bool is_open, is_closing, awaits_one; /* awaits_one: a reply, before the next act */
    uint16_t awaited_channel;
    amqp_method_number_t awaited_method;
    bool offends; /* it has; nothing that it hears means anything */
    struct prng prng;
    uint32_t frame_max;
    struct client_channel channels[CHANNELS];
};

static struct simulated_client *clients;
static unsigned next_id;

const char *client_kind_name(enum client_kind kind)
{
    static const char *const names[] = {"job",       "stream",    "confirming", "transaction",
                                        "declaring", "consuming", "dying",      "deaf",
                                        "stranger",  "worker",    "unruly",     "hasty",
                                        "flood",     "probe",     "guesser"};
    return names[kind];
}

void client_begin_all(void)
{
    ENSURE(!clients);
    next_id = 0;
}

unsigned client_count(void)
{
    unsigned count = 0;
    for (const struct simulated_client *c = clients; c; c = c->next)
        count++;
    return count;
}

const char *client_waits_for(void)
{
    static char text[128];
    snprintf(text, sizeof text, "client %u waits for %s on channel %u", clients->id,
             clients->awaits_one ? method_name(clients->awaited_method) : "its turn, or confirms,",
             clients->awaited_channel);
    return text;
}

/* ---- the end ---- */

static void free_client(void *arg)
{
    struct simulated_client *c = arg;
    for (unsigned n = 0; n < CHANNELS; n++)
        consumer_deinit(&c->channels[n].reads);
    free(c);
}

static void leave_lanes(struct simulated_client *c)
{
    for (unsigned n = 0; n < CHANNELS; n++)
        if (c->channels[n].lane)
            lane_leave(c->channels[n].lane);
}

static void leave(struct simulated_client *c, bool resets, const char *how)
{
    if (!c->talker.end)
        return;
    history_note("client %u: %s", c->id, how);
    if (resets)
        talker_abort(&c->talker);
    else
        talker_close(&c->talker);
    agenda_cancel(&c->event);
    agenda_cancel(&c->hearing);
    leave_lanes(c);
    struct simulated_client **at = &clients;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    agenda_in(&c->gone, 0, free_client, c);
}

void client_end_all(void)
{
    while (clients)
        leave(clients, true, "the run is over");
}

static void on_end(void *owner, const char *why)
{
    struct simulated_client *c = owner;
    CHECK(strcmp(why, "it does not speak AMQP") != 0, "client %u gets bytes that are no frames",
          c->id);
    bool proxy_ended =
        life_ends() != c->ends_before || !life_is_up() || life_is_hasty() || life_is_overdue();
    /* Who does not read, or has much to read, may miss the word: a reset overtakes it. */
    bool missed_some =
        c->script.reads && end_bytes_read(c->talker.end) < end_written(end_other(c->talker.end));
    CHECK(!c->is_open || c->is_closing || c->offends || proxy_ended || c->script.is_deaf_first ||
              missed_some,
          "P5: client %u is left without a word", c->id);
    leave(c, false, why);
}

/* ---- what it is told ---- */

static void all_safe(struct client_channel *ch)
{
    for (unsigned i = 0; i < ch->open_count; i++)
        if (!ledger_is_told(ch->open[i].message))
            ledger_told_safe(ch->open[i].message);
    ch->open_count = 0;
}

static void all_refused(struct client_channel *ch)
{
    for (unsigned i = 0; i < ch->open_count; i++)
        if (!ledger_is_told(ch->open[i].message))
            ledger_told_refused(ch->open[i].message);
    ch->open_count = 0;
}

/* Of those that are open, the ones of the oldest transaction: they were committed, or not. */
static void end_transaction(struct client_channel *ch, bool is_committed)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < ch->open_count; i++)
        if (ch->open[i].transaction != ch->transactions_over)
            ch->open[kept++] = ch->open[i];
        else if (is_committed && !ledger_is_told(ch->open[i].message))
            ledger_told_safe(ch->open[i].message);
    ch->open_count = kept;
    ch->transactions_over++;
}

static void take_confirm(struct simulated_client *c, uint16_t number, const struct frame *frame,
                         bool nack)
{
    struct client_channel *ch = &c->channels[number];
    uint64_t tag = wire_get64(frame->payload + 4);
    bool multiple = frame->payload[12] & 1;
    unsigned kept = 0, found = 0;
    CHECK(ch->confirms, "client %u: a confirm on a channel without confirms", c->id);
    CHECK(tag > 0 && tag <= ch->tag, "client %u: a confirm of %llu of %llu", c->id,
          (unsigned long long)tag, (unsigned long long)ch->tag);
    for (unsigned i = 0; i < ch->open_count; i++) {
        bool is_meant = ch->open[i].tag == tag || (multiple && ch->open[i].tag < tag);
        found += ch->open[i].tag == tag;
        if (!is_meant)
            ch->open[kept++] = ch->open[i];
        else if (nack)
            ledger_told_nacked(ch->open[i].message);
        else
            ledger_told_safe(ch->open[i].message);
    }
    ch->open_count = kept;
    CHECK(found == 1, "client %u: %llu is confirmed twice", c->id, (unsigned long long)tag);
}

static void act(void *arg);

static void go_on(struct simulated_client *c, uint64_t delay_us)
{
    if (c->talker.end && !agenda_has(&c->event))
        agenda_in(&c->event, delay_us, act, c);
}

static void take_channel_close(struct simulated_client *c, uint16_t number,
                               const struct frame *frame)
{
    struct client_channel *ch = &c->channels[number];
    CHECK(wire_get16(frame->payload + 4) != NOT_FOUND || ch->asks_for_missing,
          "P7: client %u named nothing that is missing, and hears %.*s", c->id, frame->payload[6],
          (char *)frame->payload + 7);
    CHECK(!memmem(frame->payload, frame->payload_len, "cannot switch", 13),
          "client %u did nothing wrong, and its channel is closed with %.*s", c->id,
          frame->payload[6], (char *)frame->payload + 7);
    history_note("client %u: channel %u is closed with %u", c->id, number,
                 wire_get16(frame->payload + 4));
    if (ch->is_transactional || !ch->is_closing)
        all_refused(ch);
    ch->open_count = 0;
    ch->is_open = false;
    lane_leave(ch->lane);
    taken_ask(&ch->reads.taken);
    taken_is_void(&ch->reads.taken);
    talker_say_plain(&c->talker, number, AMQP_CHANNEL_CLOSE_OK_METHOD);
}

static void take_reply(struct simulated_client *c, uint16_t number, amqp_method_number_t method)
{
    struct client_channel *ch = &c->channels[number];
    switch (method) {
    case AMQP_CHANNEL_CLOSE_OK_METHOD:
        if (!ch->is_transactional) {
            all_safe(ch);
            taken_arrived(&ch->reads.taken);
        }
        ch->is_open = false;
        break;
    case AMQP_TX_COMMIT_OK_METHOD:
        end_transaction(ch, true);
        taken_arrived(&ch->reads.taken);
        break;
    case AMQP_TX_ROLLBACK_OK_METHOD:
        end_transaction(ch, false);
        taken_is_void(&ch->reads.taken);
        break;
    default:
        break;
    }
}

/* ---- the handshake ---- */

static void say_start_ok(struct simulated_client *c)
{
    char response[64], guess[24];
    const struct login *l = &logins[c->script.login];
    snprintf(guess, sizeof guess, "guess-%u", c->id);
    int len = snprintf(response, sizeof response, "%c%s%c%s", 0, l->user, 0,
                       c->script.guesses       ? guess
                       : c->script.is_stranger ? "wrong"
                                               : rabbit_password(c->script.login));
    amqp_table_entry_t capabilities[] = {
        {bytes_of("authentication_failure_close"), {AMQP_FIELD_KIND_BOOLEAN, {.boolean = true}}},
        {bytes_of("connection.blocked"), {AMQP_FIELD_KIND_BOOLEAN, {.boolean = true}}}};
    amqp_table_entry_t properties[] = {
        {bytes_of("capabilities"), {AMQP_FIELD_KIND_TABLE, {.table = {2, capabilities}}}}};
    amqp_connection_start_ok_t ok = {.client_properties = {1, properties},
                                     .mechanism = bytes_of("PLAIN"),
                                     .response = {(size_t)len, response},
                                     .locale = bytes_of("en_US")};
    talker_say(&c->talker, 0, AMQP_CONNECTION_START_OK_METHOD, &ok);
}

static void take_tune(struct simulated_client *c, const struct frame *frame)
{
    uint32_t offered = wire_get32(frame->payload + 6);
    c->frame_max = offered && offered < 131072 ? offered : 131072;
    uint16_t channel_max = wire_get16(frame->payload + 4);
    amqp_connection_tune_ok_t ok = {.channel_max = channel_max, .frame_max = c->frame_max};
    talker_say(&c->talker, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &ok);
    amqp_connection_open_t open = {.virtual_host = bytes_of(logins[c->script.login].vhost)};
    talker_say(&c->talker, 0, AMQP_CONNECTION_OPEN_METHOD, &open);
}

/* Codes of what only a client itself can do wrong. */
static bool is_reproach(unsigned code)
{
    return code >= 502 && code <= 505; /* not 501: RabbitMQ may err with it */
}

static void take_connection_close(struct simulated_client *c, const struct frame *frame)
{
    CHECK(c->offends || !is_reproach(wire_get16(frame->payload + 4)),
          "client %u did nothing wrong and hears %u %.*s", c->id, wire_get16(frame->payload + 4),
          frame->payload[6], (char *)frame->payload + 7);
    history_note("client %u: its connection is closed with %u %.*s", c->id,
                 wire_get16(frame->payload + 4), frame->payload[6], (char *)frame->payload + 7);
    talker_say_plain(&c->talker, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
    leave(c, false, "was told to go");
}

static void take_connection_method(struct simulated_client *c, const struct frame *frame,
                                   amqp_method_number_t method)
{
    switch (method) {
    case AMQP_CONNECTION_START_METHOD:
        say_start_ok(c);
        break;
    case AMQP_CONNECTION_TUNE_METHOD:
        take_tune(c, frame);
        break;
    case AMQP_CONNECTION_OPEN_OK_METHOD:
        CHECK(!c->script.is_stranger, "P6: client %u is let in with a wrong password", c->id);
        c->is_open = true;
        if (agenda_has(&c->hearing))
            talker_set_deaf(&c->talker, true);
        go_on(c, 0);
        break;
    case AMQP_CONNECTION_CLOSE_METHOD:
        take_connection_close(c, frame);
        break;
    case AMQP_CONNECTION_CLOSE_OK_METHOD:
        CHECK(c->is_closing, "client %u: a close-ok that it did not ask for", c->id);
        for (unsigned n = 1; n < CHANNELS; n++)
            if (!c->channels[n].is_transactional) {
                all_safe(&c->channels[n]);
                taken_arrived(&c->channels[n].reads.taken);
            }
        leave(c, false, "closed");
        break;
    default:
        break; /* blocked, unblocked */
    }
}

/* Behind the byte that it dies at. */
static bool die_if_due(struct simulated_client *c)
{
    if (c->script.dies_at == 0 || c->talker.said_bytes < c->script.dies_at)
        return false;
    leave(c, c->script.dies_at & 1, "dies");
    return true;
}

/* That it is to go; or nothing, and it goes by itself. */
static void hear_verdict(struct simulated_client *c, const struct frame *frame)
{
    if (frame->type == FRAME_METHOD && frame->channel == 0 &&
        method_number(frame->payload, frame->payload_len) == AMQP_CONNECTION_CLOSE_METHOD) {
        tally_add(TALLY_OFFENDER_REFUSED);
        take_connection_close(c, frame);
    }
}

static bool is_awaited(const struct simulated_client *c, const struct frame *frame)
{
    amqp_method_number_t method =
        frame->type == FRAME_METHOD ? method_number(frame->payload, frame->payload_len) : 0;
    bool is_get = c->awaited_method == AMQP_BASIC_GET_OK_METHOD;
    /* A close that crosses its own is no answer to it. */
    bool ends_it = method == AMQP_CHANNEL_CLOSE_METHOD &&
                   !(c->script.is_hasty && c->awaited_method == AMQP_CHANNEL_CLOSE_OK_METHOD);
    return c->awaits_one && c->awaited_channel == frame->channel &&
           (method == c->awaited_method || ends_it ||
            (is_get && method == AMQP_BASIC_GET_EMPTY_METHOD));
}

static void heard(struct simulated_client *c, const struct frame *frame)
{
    if (is_awaited(c, frame))
        c->awaits_one = false;
    go_on(c, 0);
}

/* A message that RabbitMQ returns. */
static void take_given_back(struct simulated_client *c, const struct frame *frame)
{
    if (frame->channel != c->given_back_on)
        return;
    if (frame->type == FRAME_HEADER) {
        c->given_back_left = wire_get64(frame->payload + 4);
        c->is_given_back = true;
        return;
    }
    CHECK(frame->payload_len <= c->given_back_left, "client %u: what comes back is too long",
          c->id);
    if (c->is_given_back)
        ledger_given_back(ledger_number(frame->payload));
    c->is_given_back = false;
    c->given_back_left -= frame->payload_len;
    if (c->given_back_left == 0)
        c->given_back_on = 0;
}

static void on_frame(void *owner, struct frame *frame)
{
    struct simulated_client *c = owner;
    if (c->offends) {
        hear_verdict(c, frame);
        return;
    }
    CHECK(c->frame_max == 0 || frame->payload_len + FRAME_OVERHEAD_BYTES <= c->frame_max,
          "client %u gets a frame larger than it has agreed to", c->id);
    CHECK(frame->channel < CHANNELS, "client %u hears of channel %u", c->id, frame->channel);
    CHECK(frame->type != FRAME_METHOD || !c->channels[frame->channel].reads.is_inside,
          "client %u gets a method in the middle of a delivery", c->id);
    if (frame->channel > 0 &&
        consumer_hear(&c->channels[frame->channel].reads, &c->talker, frame)) {
        heard(c, frame);
        return;
    }
    if (frame->type != FRAME_METHOD) {
        take_given_back(c, frame);
        return;
    }
    CHECK(frame->channel == 0 || frame->channel != c->given_back_on,
          "client %u gets a method in the middle of a message", c->id);
    amqp_method_number_t method = method_number(frame->payload, frame->payload_len);
    history_note("client %u: %s on channel %u", c->id, method_name(method), frame->channel);
    if (frame->channel == 0) {
        take_connection_method(c, frame, method);
        if (c->talker.end)
            die_if_due(c);
        return;
    }
    if (method == AMQP_BASIC_ACK_METHOD || method == AMQP_BASIC_NACK_METHOD)
        take_confirm(c, frame->channel, frame, method == AMQP_BASIC_NACK_METHOD);
    else if (method == AMQP_CHANNEL_CLOSE_METHOD)
        take_channel_close(c, frame->channel, frame);
    else if (method == AMQP_BASIC_RETURN_METHOD)
        c->given_back_on = frame->channel; /* its body says which */
    else
        take_reply(c, frame->channel, method);
    heard(c, frame);
}

/* ---- what it does ---- */

/* Asks for something that is answered. */
static void call(struct simulated_client *c, uint16_t number, amqp_method_number_t method,
                 const void *fields)
{
    static const uint8_t zeros[256];
    history_note("client %u: says %s on channel %u", c->id, method_name(method), number);
    talker_say(&c->talker, number, method, fields ? fields : zeros);
    bool ends_transaction = method == AMQP_TX_COMMIT_METHOD || method == AMQP_TX_ROLLBACK_METHOD;
    c->awaits_one = !c->script.pipelines || method == AMQP_CONNECTION_CLOSE_METHOD ||
                    (ends_transaction && !c->script.is_hasty) ||
                    (method == AMQP_CHANNEL_CLOSE_METHOD && c->script.is_hasty);
    c->awaited_channel = number;
    c->awaited_method = method + 1;
}

static void say_publish(struct simulated_client *c, const struct act *a)
{
    struct client_channel *ch = &c->channels[a->channel];
    uint32_t message = ledger_publish(ch->lane, a->destination, a->persistent, a->mandatory);
    amqp_basic_publish_t publish = {.exchange = bytes_of(destination_exchange(a->destination)),
                                    .routing_key = bytes_of(destination_key(a->destination)),
                                    .mandatory = a->mandatory};
    uint8_t header[LEDGER_HEADER_BYTES], *body = malloc(a->size);
    ch->asks_for_missing = ch->asks_for_missing || a->destination == DEST_MISSING;
    ENSURE(body);
    ledger_write_body(message, body, a->size);
    ledger_write_header(message, a->size, header);
    ENSURE(ch->open_count < SCRIPT_MAX);
    ch->open[ch->open_count++] = (struct open_publish){message, ++ch->tag, ch->transactions};
    history_note("client %u: message %u on channel %u, number %llu, to \"%s\" \"%s\", %u bytes",
                 c->id, message, a->channel, (unsigned long long)ch->tag,
                 destination_exchange(a->destination), destination_key(a->destination), a->size);
    talker_say(&c->talker, a->channel, AMQP_BASIC_PUBLISH_METHOD, &publish);
    talker_say_content(&c->talker, a->channel, header, sizeof header, body, a->size, c->frame_max);
    free(body);
}

static void cancel_last(struct simulated_client *c, uint16_t number)
{
    struct consumer_channel *reads = &c->channels[number].reads;
    char tag[24];
    if (reads->consumers == 0)
        return;
    snprintf(tag, sizeof tag, "c%u.%u.%u", c->id, number, reads->tags);
    amqp_basic_cancel_t cancel = {.consumer_tag = bytes_of(tag)};
    call(c, number, AMQP_BASIC_CANCEL_METHOD, &cancel);
}

/* Returns whether it is done with; if not it is looked at again when something has come. */
static bool perform(struct simulated_client *c, const struct act *a)
{
    struct client_channel *ch = &c->channels[a->channel];
    amqp_queue_declare_t declare = {.queue = bytes_of(destination_key(a->destination))};
    amqp_basic_consume_t consume = {.queue = bytes_of("q0"), .no_ack = a->no_ack};
    amqp_basic_get_t get = {.queue = bytes_of("q0"), .no_ack = a->no_ack};
    amqp_basic_qos_t qos = {.prefetch_count = (uint16_t)a->count, .global = a->is_global};
    amqp_queue_bind_t bind = {.queue = bytes_of("q0"),
                              .exchange = bytes_of("missing"),
                              .routing_key = bytes_of("k"),
                              .nowait = true};
    amqp_connection_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
    if (a->channel > 0 && a->kind != ACT_OPEN && (!ch->is_open || ch->is_closing))
        return true; /* it was closed meanwhile */
    switch (a->kind) {
    case ACT_OPEN:
        ch->is_open = true;
        ch->lane = lane_new(c->script.login);
        ch->reads = (struct consumer_channel){
            .login = c->script.login, .number = a->channel, .settling = c->script.settling};
        call(c, a->channel, AMQP_CHANNEL_OPEN_METHOD, NULL);
        break;
    case ACT_CONFIRM:
        ch->confirms = true;
        lane_confirms(ch->lane);
        call(c, a->channel, AMQP_CONFIRM_SELECT_METHOD, NULL);
        break;
    case ACT_TX:
        ch->is_transactional = true;
        for (unsigned i = 0; i < ch->open_count; i++)
            ch->open[i].transaction = OUTSIDE;
        call(c, a->channel, AMQP_TX_SELECT_METHOD, NULL);
        break;
    case ACT_DECLARE:
        call(c, a->channel, AMQP_QUEUE_DECLARE_METHOD, &declare);
        break;
    case ACT_BIND_TO_NOTHING:
        ch->asks_for_missing = true;
        talker_say(&c->talker, a->channel, AMQP_QUEUE_BIND_METHOD, &bind);
        break;
    case ACT_QOS:
        call(c, a->channel, AMQP_BASIC_QOS_METHOD, &qos);
        break;
    case ACT_READ:
        consume.consumer_tag = bytes_of(consumer_next_tag(&ch->reads, c->id));
        call(c, a->channel, AMQP_BASIC_CONSUME_METHOD, &consume);
        break;
    case ACT_TAKE:
        return ch->reads.taken_count >= a->count || ch->reads.consumers == 0;
    case ACT_GET:
        call(c, a->channel, AMQP_BASIC_GET_METHOD, &get);
        break;
    case ACT_SETTLE:
        consumer_settle_all(&ch->reads, &c->talker);
        break;
    case ACT_CANCEL:
        cancel_last(c, a->channel);
        break;
    case ACT_OFFEND:
        c->offends = true;
        tally_add(TALLY_OFFENCE);
        history_note("client %u: says %s", c->id,
                     unruly_say(&c->talker, &c->prng, a->channel, c->frame_max));
        break;
    case ACT_CONSUME:
        call(c, a->channel, AMQP_BASIC_CONSUME_METHOD, &consume);
        break;
    case ACT_PUBLISH:
        say_publish(c, a);
        break;
    case ACT_COMMIT:
        ch->transactions++;
        taken_ask(&ch->reads.taken);
        call(c, a->channel, AMQP_TX_COMMIT_METHOD, NULL);
        break;
    case ACT_ROLLBACK:
        ch->transactions++;
        taken_ask(&ch->reads.taken);
        call(c, a->channel, AMQP_TX_ROLLBACK_METHOD, NULL);
        break;
    case ACT_AWAIT:
        return ch->open_count == 0;
    case ACT_PAUSE:
        break;
    case ACT_CLOSE_CHANNEL:
        ch->is_closing = true;
        lane_leave(ch->lane);
        consumer_close(&ch->reads);
        call(c, a->channel, AMQP_CHANNEL_CLOSE_METHOD, &close);
        break;
    case ACT_CLOSE:
        c->is_closing = true;
        leave_lanes(c);
        for (unsigned n = 1; n < CHANNELS; n++)
            consumer_close(&c->channels[n].reads);
        call(c, 0, AMQP_CONNECTION_CLOSE_METHOD, &close);
        break;
    case ACT_VANISH:
        leave(c, true, "vanishes");
        break;
    }
    return true;
}

static void act(void *arg)
{
    struct simulated_client *c = arg;
    if (die_if_due(c) || (c->awaits_one && !c->offends) || c->at == c->script.count)
        return;
    const struct act *a = &c->script.acts[c->at];
    if (!perform(c, a))
        return;
    if (!c->talker.end)
        return;
    c->at++;
    if (!die_if_due(c) && c->at < c->script.count && !c->awaits_one)
        go_on(c, c->script.acts[c->at].pause_us);
}

unsigned client_started(void)
{
    return next_id;
}

bool client_is_there(unsigned id)
{
    const struct simulated_client *c = clients;
    while (c && c->id != id)
        c = c->next;
    return c != NULL;
}

static void hear(void *arg)
{
    struct simulated_client *c = arg;
    talker_set_deaf(&c->talker, false);
}

static struct simulated_client *start(enum client_kind kind, uint64_t seed, unsigned login)
{
    static const struct talker_events events = {on_frame, on_end};
    struct prng prng = prng_of(seed, 6);
    unsigned id = ++next_id;
    struct end *end = sim_uv_connect(prng_next(&prng));
    if (!end) {
        history_note("client %u: a %s is refused", id, client_kind_name(kind));
        return NULL;
    }
    struct simulated_client *c = calloc(1, sizeof *c);
    ENSURE(c);
    script_write(&c->script, kind, &prng);
    if (login < LOGINS)
        c->script.login = login;
    c->id = id;
    c->prng = prng_of(seed, 15);
    c->ends_before = life_ends();
    c->next = clients;
    clients = c;
    history_note("client %u: a %s of %s connects", id, client_kind_name(kind),
                 logins[c->script.login].user);
    talker_begin(&c->talker, end, &events, c);
    c->talker.dies_at = c->script.dies_at;
    if (c->script.is_deaf_first)
        agenda_in(&c->hearing, c->script.hears_after_us, hear, c);
    talker_say_bytes(&c->talker, "AMQP\0\0\x09\x01", 8);
    return die_if_due(c) ? NULL : c;
}

void client_start(enum client_kind kind, uint64_t seed)
{
    start(kind, seed, LOGINS);
}

void client_start_as(enum client_kind kind, uint64_t seed, unsigned login)
{
    start(kind, seed, login);
}

unsigned client_start_to(enum client_kind kind, uint64_t seed, unsigned login, enum destination d)
{
    struct simulated_client *c = start(kind, seed, login);
    for (unsigned i = 0; c && i < c->script.count; i++)
        c->script.acts[i].destination = d;
    return c ? c->id : 0;
}
