/* A connection to RabbitMQ: its handshake, its channels and their methods. */

#include <stdlib.h>
#include <string.h>

#include "amqp/wire.h"
#include "base/assert.h"
#include "history.h"
#include "peer/capability.h"
#include "rabbit_inside.h"
#include "tally.h"

enum { BEAT_US = 3000000 };

static void end_channel(struct rabbit_connection *c, uint16_t number, bool is_left)
{
    struct rabbit_channel *ch = c->channels[number];
    if (!ch)
        return;
    rabbit_channel_lose(c, number, is_left);
    free(ch->pending);
    free(ch->uncommitted);
    free(ch->open);
    free(ch->said);
    free(ch->header);
    free(ch->body);
    free(ch);
    c->channels[number] = NULL;
}

static void free_connection(void *arg)
{
    free(arg);
}

void rabbit_connection_lose(struct rabbit_connection *c, bool resets)
{
    if (!c->talker.end)
        return;
    for (uint16_t n = 1; n <= c->highest; n++)
        end_channel(c, n, c->is_left);
    if (resets)
        talker_abort(&c->talker);
    else
        talker_close(&c->talker);
    agenda_cancel(&c->confirm);
    agenda_cancel(&c->deliver);
    agenda_cancel(&c->beat);
    agenda_cancel(&c->opening);
    struct rabbit_connection **at = &rabbit.connections;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    rabbit.count--;
    agenda_in(&c->gone, 0, free_connection, c); /* its own callbacks may be above us */
}

static void on_end(void *owner, const char *why)
{
    CHECK(strcmp(why, "it does not speak AMQP") != 0, "P7: RabbitMQ gets bytes that are no frames");
    rabbit_connection_lose(owner, false);
}

void rabbit_connection_close(struct rabbit_connection *c, uint16_t code, const char *text)
{
    rabbit_connection_close_over(c, code, text, 0);
}

void rabbit_connection_close_over(struct rabbit_connection *c, uint16_t code, const char *text,
                                  amqp_method_number_t cause)
{
    amqp_connection_close_t close = {.reply_code = code,
                                     .reply_text = bytes_of(text),
                                     .class_id = (uint16_t)(cause >> 16),
                                     .method_id = (uint16_t)cause};
    history_note("rabbit: closes a connection with %u", code);
    for (uint16_t n = 1; n <= c->highest; n++)
        end_channel(c, n, c->is_left);
    c->is_closing = true;
    agenda_cancel(&c->confirm);
    agenda_cancel(&c->deliver);
    talker_say(&c->talker, 0, AMQP_CONNECTION_CLOSE_METHOD, &close);
}

/* Frozen, it reads nothing; in an alarm, nothing from who publishes; nor while it opens a channel.
 */
void rabbit_connection_listen(struct rabbit_connection *c)
{
    talker_set_deaf(&c->talker, rabbit_is_frozen(c) || (rabbit.is_alarmed && c->publishes) ||
                                    agenda_has(&c->opening));
}

/* ---- the handshake ---- */

static void say_start(struct rabbit_connection *c)
{
    static char *const names[] = {"publisher_confirms",           "basic.nack",
                                  "connection.blocked",           "consumer_cancel_notify",
                                  "authentication_failure_close", "exchange_exchange_bindings"};
    enum { NAMES = sizeof names / sizeof names[0] };
    amqp_table_entry_t capabilities[NAMES];
    for (unsigned i = 0; i < NAMES; i++)
        capabilities[i] =
            (amqp_table_entry_t){bytes_of(names[i]), {AMQP_FIELD_KIND_BOOLEAN, {.boolean = true}}};
    amqp_table_entry_t entries[] = {
        {bytes_of("capabilities"), {AMQP_FIELD_KIND_TABLE, {.table = {NAMES, capabilities}}}},
        {bytes_of("product"), {AMQP_FIELD_KIND_UTF8, {.bytes = bytes_of("RabbitMQ")}}},
        {bytes_of("version"), {AMQP_FIELD_KIND_UTF8, {.bytes = bytes_of("3.10.8")}}}};
    amqp_connection_start_t start = {.version_minor = 9,
                                     .server_properties = {3, entries},
                                     .mechanisms = bytes_of("PLAIN AMQPLAIN"),
                                     .locales = bytes_of("en_US")};
    talker_say(&c->talker, 0, AMQP_CONNECTION_START_METHOD, &start);
}

static void take_start_ok(struct rabbit_connection *c, const amqp_connection_start_ok_t *ok)
{
    amqp_connection_tune_t tune = {
        .channel_max = rabbit.channel_max, .frame_max = rabbit.frame_max, .heartbeat = 0};
    if (rabbit.has_small_frames)
        tally_add(TALLY_SMALL_FRAMES);
    c->login = rabbit_find_login(ok->response);
    c->channel_max = rabbit.channel_max;
    c->is_own = !capability_find(&ok->client_properties, "publisher_confirms"); /* clients' are */
    if (c->login == LOGINS)
        rabbit_note_refusal(c);
    if (c->login == LOGINS)
        rabbit_connection_close(c, 403,
                                "ACCESS_REFUSED - Login was refused using authentication "
                                "mechanism PLAIN.");
    else
        talker_say(&c->talker, 0, AMQP_CONNECTION_TUNE_METHOD, &tune);
}

static void take_open(struct rabbit_connection *c, amqp_bytes_t vhost)
{
    const char *own = logins[c->login].vhost;
    if (vhost.len != strlen(own) || memcmp(vhost.bytes, own, vhost.len) != 0) {
        rabbit_connection_close(c, 530, "NOT_ALLOWED - access to vhost refused");
        return;
    }
    const char *refused = rabbit_refuses_open(c);
    if (refused) {
        rabbit_connection_close_over(c, 530, refused, AMQP_CONNECTION_OPEN_METHOD);
        return;
    }
    c->is_open = true;
    talker_say_plain(&c->talker, 0, AMQP_CONNECTION_OPEN_OK_METHOD);
}

/* ---- methods ---- */

static void opened(void *arg)
{
    struct rabbit_connection *c = arg;
    if (!c->is_closing)
        talker_say_plain(&c->talker, c->opens, AMQP_CHANNEL_OPEN_OK_METHOD);
    rabbit_connection_listen(c);
}

static void open_channel(struct rabbit_connection *c, uint16_t number)
{
    CHECK(number <= c->channel_max, "P7: channel %u of at most %u", number, c->channel_max);
    CHECK(!c->channels[number], "P7: channel %u is opened twice", number);
    const char *refused = rabbit_refuses_channel(c);
    if (refused) {
        rabbit_connection_close_over(c, 530, refused, AMQP_CHANNEL_OPEN_METHOD);
        return;
    }
    c->channels[number] = calloc(1, sizeof *c->channels[number]);
    ENSURE(c->channels[number]);
    if (number > c->highest)
        c->highest = number;
    c->channels[number]->serial = ++rabbit.next_channel;
    c->opens = number;
    if (rabbit.opens_us == 0) {
        opened(c);
        return;
    }
    tally_add(TALLY_SLOW_OPEN);
    agenda_in(&c->opening, rabbit.opens_us, opened, c);
}

static void take_declare(struct rabbit_connection *c, uint16_t number,
                         const amqp_queue_declare_t *m)
{
    amqp_queue_declare_ok_t ok = {.queue = m->queue.len ? m->queue : bytes_of("amq.gen-1")};
    talker_say(&c->talker, number, AMQP_QUEUE_DECLARE_OK_METHOD, &ok);
}

static void take_consume(struct rabbit_connection *c, uint16_t number,
                         const amqp_basic_consume_t *m)
{
    amqp_basic_consume_ok_t ok = {.consumer_tag = m->consumer_tag.len ? m->consumer_tag
                                                                      : bytes_of("amq.ctag-1")};
    talker_say(&c->talker, number, AMQP_BASIC_CONSUME_OK_METHOD, &ok);
}

/* False: it is none of them. */
static bool take_consumption(struct rabbit_connection *c, uint16_t number,
                             amqp_method_number_t method, const void *fields)
{
    const amqp_basic_ack_t *ack = fields;
    const amqp_basic_nack_t *nack = fields;
    switch (method) {
    case AMQP_BASIC_QOS_METHOD:
        rabbit_qos(c->channels[number], fields);
        return false; /* and is answered as any other */
    case AMQP_BASIC_CANCEL_METHOD:
        rabbit_cancel(c, number, ((const amqp_basic_cancel_t *)fields)->consumer_tag);
        return true;
    case AMQP_BASIC_GET_METHOD:
        rabbit_get(c, number, fields);
        return true;
    case AMQP_BASIC_ACK_METHOD:
        rabbit_settle(c, number, ack->delivery_tag, ack->multiple);
        return true;
    case AMQP_BASIC_NACK_METHOD:
        rabbit_settle(c, number, nack->delivery_tag, nack->multiple);
        return true;
    case AMQP_BASIC_REJECT_METHOD:
        rabbit_settle(c, number, ((const amqp_basic_reject_t *)fields)->delivery_tag, false);
        return true;
    default:
        return false;
    }
}

static void take_channel_method(struct rabbit_connection *c, uint16_t number,
                                amqp_method_number_t method, const void *fields, bool nowait)
{
    struct rabbit_channel *ch = c->channels[number];
    if (take_consumption(c, number, method, fields))
        return;
    switch (method) {
    case AMQP_CONFIRM_SELECT_METHOD:
    case AMQP_TX_SELECT_METHOD:
        if (method == AMQP_TX_SELECT_METHOD ? ch->confirms : ch->is_transactional) {
            rabbit_raise(c, number, 406, method);
            return;
        }
        ch->confirms = ch->confirms || method == AMQP_CONFIRM_SELECT_METHOD;
        ch->is_transactional = !ch->confirms;
        break;
    case AMQP_QUEUE_BIND_METHOD:
        if (((const amqp_queue_bind_t *)fields)->exchange.len > 0) { /* the only one, and missing */
            rabbit_raise(c, number, 404, method);
            return;
        }
        break;
    case AMQP_TX_COMMIT_METHOD:
    case AMQP_TX_ROLLBACK_METHOD:
        rabbit_commit(c, ch, method == AMQP_TX_COMMIT_METHOD);
        rabbit_commit_settled(c, ch, method == AMQP_TX_COMMIT_METHOD);
        break;
    case AMQP_QUEUE_DECLARE_METHOD:
        if (!nowait)
            take_declare(c, number, fields);
        return;
    case AMQP_BASIC_CONSUME_METHOD:
        if (!nowait)
            take_consume(c, number, fields);
        rabbit_consume(c, number, fields);
        return;
    case AMQP_CHANNEL_CLOSE_METHOD:
        end_channel(c, number, true);
        break;
    default:
        break;
    }
    if (method_is_answered(method) && !nowait)
        talker_say_plain(&c->talker, number, method + 1);
}

static void take_method(struct rabbit_connection *c, const struct frame *frame)
{
    uint16_t number = frame->channel;
    struct method_arena arena;
    amqp_method_number_t method;
    void *fields;
    method_arena_init(&arena);
    CHECK(method_decode(&arena, frame->payload, frame->payload_len, &method, &fields),
          "P7: a malformed method");
    bool nowait = method_set_nowait(frame->payload, frame->payload_len, false);
    struct rabbit_channel *ch = number <= RABBIT_CHANNELS_MAX ? c->channels[number] : NULL;
    if (method == AMQP_CONNECTION_START_OK_METHOD) {
        take_start_ok(c, fields);
    } else if (method == AMQP_CONNECTION_TUNE_OK_METHOD) {
        c->frame_max = ((amqp_connection_tune_ok_t *)fields)->frame_max;
    } else if (method == AMQP_CONNECTION_OPEN_METHOD) {
        take_open(c, ((amqp_connection_open_t *)fields)->virtual_host);
    } else if (method == AMQP_CONNECTION_CLOSE_METHOD) {
        c->is_left = true;
        talker_say_plain(&c->talker, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
        rabbit_connection_lose(c, false);
    } else if (method == AMQP_CHANNEL_OPEN_METHOD) {
        open_channel(c, number);
    } else {
        CHECK(ch, "P7: %s on channel %u, which is not open", method_name(method), number);
        if (method == AMQP_CHANNEL_CLOSE_OK_METHOD)
            end_channel(c, number, false);
        else if (method == AMQP_BASIC_PUBLISH_METHOD)
            rabbit_publish_begins(c, number, frame);
        else
            take_channel_method(c, number, method, fields, nowait);
    }
    method_arena_deinit(&arena);
}

static void on_frame(void *owner, struct frame *frame)
{
    struct rabbit_connection *c = owner;
    bool is_method = frame->type == FRAME_METHOD;
    uint32_t method = is_method ? method_number(frame->payload, frame->payload_len) : 0;
    if (c->is_closing) { /* waits for the answer alone */
        if (method == AMQP_CONNECTION_CLOSE_OK_METHOD || method == AMQP_CONNECTION_CLOSE_METHOD)
            rabbit_connection_lose(c, false);
        return;
    }
    struct rabbit_channel *ch =
        frame->channel <= RABBIT_CHANNELS_MAX ? c->channels[frame->channel] : NULL;
    if (frame->type == 'A')
        say_start(c);
    else if (frame->type == FRAME_HEARTBEAT)
        return;
    else if (ch && ch->is_closing && method == AMQP_CHANNEL_CLOSE_METHOD)
        talker_say_plain(&c->talker, frame->channel, AMQP_CHANNEL_CLOSE_OK_METHOD);
    else if (ch && ch->is_closing && method != AMQP_CHANNEL_CLOSE_OK_METHOD)
        return; /* was sent before it heard of the exception */
    else if (is_method)
        take_method(c, frame);
    else {
        CHECK(ch, "P7: content on channel %u, which is not open", frame->channel);
        CHECK(frame->payload_len + FRAME_OVERHEAD_BYTES <= c->frame_max, "P7: a frame too large");
        rabbit_content_comes(c, frame->channel, frame);
    }
    if (c->talker.end)
        rabbit_connection_listen(c);
}

static void beat(void *arg)
{
    static const uint8_t frame[] = {FRAME_HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END};
    struct rabbit_connection *c = arg;
    if (c->is_open && !rabbit_is_frozen(c))
        talker_say_bytes(&c->talker, frame, sizeof frame);
    agenda_in(&c->beat, BEAT_US, beat, c);
}

struct rabbit_connection *rabbit_connection_new(struct end *end, unsigned node)
{
    static const struct talker_events events = {on_frame, on_end};
    struct rabbit_connection *c = calloc(1, sizeof *c);
    ENSURE(c);
    c->login = LOGINS;
    c->node = node;
    c->came_us = agenda_now_us();
    c->prng = prng_of(rabbit.seed + ++rabbit.next_connection, 11);
    c->next = rabbit.connections;
    rabbit.connections = c;
    rabbit.count++;
    talker_begin(&c->talker, end, &events, c);
    c->talker.awaits_header = true;
    agenda_in(&c->beat, BEAT_US, beat, c);
    rabbit_connection_listen(c);
    return c;
}
