/* RabbitMQ, as far as the core talks to it: it answers each method, and confirms publishes. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/wire.h"
#include "world.h"

struct broker broker;

enum { CHANNELS = 64 };

struct connection {
    struct stream *stream;
    unsigned number;
    bool greeted;
    struct {
        bool confirms, is_bad;
        bool
            closed; /* with an exception; what follows on it is not looked at before its close-ok */
        bool holds; /* something older than the last one is not confirmed */
        uint64_t tag, confirmed;
        char names[256], body[256];
        size_t names_len, body_len;
        uint64_t missing;
        bool inside, mandatory;
        bool is_stuck; /* RabbitMQ does nothing on it */
        uint8_t method[512], header[512];
        size_t method_len, header_len;
    } channels[CHANNELS];
};

static struct connection *connections[64];

void world_broker_reset(void)
{
    for (unsigned i = 0; i < 64; i++) {
        free(connections[i]);
        connections[i] = NULL;
    }
    broker = (struct broker){
        .is_there = true, .offers_confirms = true, .channel_max = 2047, .close_code = 404};
}

static void say_frame(struct connection *c, const uint8_t *frame, size_t size)
{
    world_arrive(c->stream, frame, size);
}

static void say(struct connection *c, uint16_t channel, amqp_method_number_t method,
                const void *fields)
{
    uint8_t frame[FRAME_MIN_SIZE];
    size_t size = method_encode(frame, sizeof frame, channel, method, fields);
    assert_true(size > 0);
    say_frame(c, frame, size);
}

static void say_plain(struct connection *c, uint16_t channel, amqp_method_number_t method)
{
    static const uint8_t zeros[256];
    say(c, channel, method, zeros);
}

static void say_start(struct connection *c)
{
    amqp_table_entry_t capability[] = {
        {bytes_of("publisher_confirms"),
         {AMQP_FIELD_KIND_BOOLEAN, {.boolean = broker.offers_confirms}}}};
    amqp_table_entry_t entries[] = {
        {bytes_of("capabilities"), {AMQP_FIELD_KIND_TABLE, {.table = {1, capability}}}},
        {bytes_of("version"), {AMQP_FIELD_KIND_UTF8, {.bytes = bytes_of("3.10.8")}}}};
    amqp_connection_start_t start = {.version_minor = 9,
                                     .server_properties = {2, entries},
                                     .mechanisms = bytes_of("PLAIN"),
                                     .locales = bytes_of("en_US")};
    say(c, 0, AMQP_CONNECTION_START_METHOD, &start);
}

static void close_connection(struct connection *c, uint16_t code, const char *text)
{
    amqp_connection_close_t close = {.reply_code = code, .reply_text = bytes_of(text)};
    say(c, 0, AMQP_CONNECTION_CLOSE_METHOD, &close);
}

static void confirm(struct connection *c, uint16_t channel, bool all)
{
    uint64_t tag = c->channels[channel].tag;
    bool multiple = all || !c->channels[channel].holds;
    bool is_settled = c->channels[channel].confirmed == tag && !c->channels[channel].holds;
    if (!c->channels[channel].confirms || is_settled)
        return;
    c->channels[channel].confirmed = tag;
    c->channels[channel].holds = !multiple;
    if (broker.confirms == BROKER_NACKS || c->channels[channel].is_bad) {
        amqp_basic_nack_t nack = {.delivery_tag = tag, .multiple = multiple};
        say(c, channel, AMQP_BASIC_NACK_METHOD, &nack);
    } else {
        amqp_basic_ack_t ack = {.delivery_tag = tag, .multiple = multiple};
        say(c, channel, AMQP_BASIC_ACK_METHOD, &ack);
    }
}

static void give_back(struct connection *c, uint16_t channel)
{
    struct publish publish;
    assert_true(
        publish_parse(c->channels[channel].method, c->channels[channel].method_len, &publish));
    amqp_basic_return_t m = {
        .reply_code = 312,
        .reply_text = bytes_of("NO_ROUTE"),
        .exchange = {publish.exchange_len, (void *)(uintptr_t)publish.exchange},
        .routing_key = {publish.routing_key_len, (void *)(uintptr_t)publish.routing_key}};
    say(c, channel, AMQP_BASIC_RETURN_METHOD, &m);
    uint8_t frame[1024];
    memcpy(frame + FRAME_HEAD_BYTES, c->channels[channel].header, c->channels[channel].header_len);
    say_frame(c, frame,
              frame_wrap(frame, FRAME_HEADER, channel, (uint32_t)c->channels[channel].header_len));
    if (c->channels[channel].body_len > 0) {
        memcpy(frame + FRAME_HEAD_BYTES, c->channels[channel].body, c->channels[channel].body_len);
        say_frame(c, frame,
                  frame_wrap(frame, FRAME_BODY, channel, (uint32_t)c->channels[channel].body_len));
    }
}

static void take_message(struct connection *c, uint16_t channel)
{
    const char *body = c->channels[channel].body;
    c->channels[channel].inside = false;
    c->channels[channel].tag++;
    if (body[0] == '!') {
        amqp_channel_close_t close = {.reply_code = broker.close_code,
                                      .reply_text = bytes_of("NOT_FOUND - no exchange 'x'"),
                                      .class_id = 60,
                                      .method_id = 40};
        say(c, channel, AMQP_CHANNEL_CLOSE_METHOD, &close);
        c->channels[channel].closed = true;
        return;
    }
    if (body[0] == '@') {
        c->channels[channel].is_stuck = true;
        return;
    }
    if (body[0] == '?') {
        close_connection(c, 501, "FRAME_ERROR");
        return;
    }
    broker.origins[broker.published % 256] = c->number;
    snprintf(broker.bodies[broker.published++ % 256], 64, "%.63s", body);
    if (broker.returns && c->channels[channel].mandatory)
        give_back(c, channel);
    if (body[0] == '~')
        c->channels[channel].holds = true;
    else if (broker.confirms != BROKER_SILENT)
        confirm(c, channel, false);
}

/* PLAIN: a NUL before the user, and one before the password. */
static void note_password(const struct connection *c, const amqp_connection_start_ok_t *m)
{
    const char *at = m->response.bytes, *end = at + m->response.len;
    const char *password = memchr(at + 1, 0, m->response.len - 1);
    assert_non_null(password);
    snprintf(broker.passwords[c->number % 256], 256, "%.*s", (int)(end - password - 1),
             password + 1);
}

static void take_method(struct connection *c, const struct frame *frame)
{
    amqp_method_number_t method = method_number(frame->payload, frame->payload_len);
    uint16_t n = frame->channel;
    assert_true(n < CHANNELS);
    if (c->channels[n].is_stuck)
        return;
    if (c->channels[n].closed && method != AMQP_CHANNEL_CLOSE_OK_METHOD &&
        method != AMQP_CHANNEL_CLOSE_METHOD)
        return;
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t number;
    void *decoded;
    assert_true(method_decode(&arena, frame->payload, frame->payload_len, &number, &decoded));
    if (method != AMQP_BASIC_PUBLISH_METHOD) {
        snprintf(broker.last_call, sizeof broker.last_call, "%s", method_name(method));
        snprintf(broker.heard[broker.calls++ % 1024], 32, "%.31s", method_name(method));
    }
    amqp_queue_declare_ok_t declared = {.queue = bytes_of("amq.gen-1")};
    amqp_basic_consume_ok_t consumed = {.consumer_tag = bytes_of("tag")};
    amqp_connection_tune_t tune = {
        .channel_max = broker.channel_max, .frame_max = 131072, .heartbeat = 60};
    switch (method) {
    case AMQP_CONNECTION_START_OK_METHOD:
        note_password(c, decoded);
        if (broker.refused_password[0] &&
            strcmp(broker.passwords[c->number % 256], broker.refused_password) == 0)
            close_connection(c, 403, "ACCESS_REFUSED - Login was refused");
        else if (broker.refuse_code == 403)
            close_connection(c, 403, broker.refuse_text);
        else
            say(c, 0, AMQP_CONNECTION_TUNE_METHOD, &tune);
        break;
    case AMQP_CONNECTION_TUNE_OK_METHOD:
    case AMQP_CONNECTION_CLOSE_OK_METHOD:
    case AMQP_CONNECTION_UPDATE_SECRET_METHOD:
        break;
    case AMQP_CHANNEL_CLOSE_OK_METHOD:
        memset(&c->channels[n], 0, sizeof c->channels[n]);
        break;
    case AMQP_CONNECTION_OPEN_METHOD:
        if (broker.refuse_code)
            close_connection(c, broker.refuse_code, broker.refuse_text);
        else
            say_plain(c, 0, AMQP_CONNECTION_OPEN_OK_METHOD);
        break;
    case AMQP_BASIC_PUBLISH_METHOD:
        c->channels[n].inside = true;
        c->channels[n].mandatory = frame->payload[frame->payload_len - 1] & 1;
        c->channels[n].body_len = 0;
        assert_true(frame->payload_len <= sizeof c->channels[n].method);
        memcpy(c->channels[n].method, frame->payload, frame->payload_len);
        c->channels[n].method_len = frame->payload_len;
        break;
    case AMQP_CHANNEL_OPEN_METHOD:
        c->channels[n].is_bad = broker.bad_channels > 0;
        broker.bad_channels -= c->channels[n].is_bad;
        if (broker.silent_on != method)
            say_plain(c, n, AMQP_CHANNEL_OPEN_OK_METHOD);
        break;
    case AMQP_CONFIRM_SELECT_METHOD:
        c->channels[n].confirms = true;
        if (broker.silent_on != method)
            say_plain(c, n, AMQP_CONFIRM_SELECT_OK_METHOD);
        break;
    case AMQP_QUEUE_DECLARE_METHOD:
        if (((amqp_queue_declare_t *)decoded)->queue.len > 0)
            declared.queue = ((amqp_queue_declare_t *)decoded)->queue;
        if (!broker.silent_calls)
            say(c, n, AMQP_QUEUE_DECLARE_OK_METHOD, &declared);
        break;
    case AMQP_BASIC_CONSUME_METHOD:
        say(c, n, AMQP_BASIC_CONSUME_OK_METHOD, &consumed);
        break;
    case AMQP_CHANNEL_CLOSE_METHOD:
        memset(&c->channels[n], 0, sizeof c->channels[n]);
        if (!broker.silent_calls)
            say_plain(c, n, AMQP_CHANNEL_CLOSE_OK_METHOD);
        break;
    default:
        if (method_is_answered(method) && !broker.silent_calls && broker.silent_on != method)
            say_plain(c, n, method + 1);
    }
    method_arena_deinit(&arena);
}

static void take_content(struct connection *c, const struct frame *frame)
{
    uint16_t n = frame->channel;
    if (!c->channels[n].inside)
        return; /* of a channel that was closed meanwhile */
    if (frame->type == FRAME_HEADER) {
        c->channels[n].missing = wire_get64(frame->payload + 4);
        assert_true(frame->payload_len <= sizeof c->channels[n].header);
        memcpy(c->channels[n].header, frame->payload, frame->payload_len);
        c->channels[n].header_len = frame->payload_len;
        memset(c->channels[n].body, 0, sizeof c->channels[n].body);
    } else {
        size_t left = sizeof c->channels[n].body - 1 - c->channels[n].body_len;
        size_t len = frame->payload_len < left ? frame->payload_len : left;
        memcpy(c->channels[n].body + c->channels[n].body_len, frame->payload, len);
        c->channels[n].body_len += len;
        c->channels[n].missing -= frame->payload_len;
    }
    if (c->channels[n].missing == 0)
        take_message(c, n);
}

static struct connection *connection_of(struct stream *s)
{
    unsigned free_at = 64;
    for (unsigned i = 0; i < 64; i++) {
        if (connections[i] && connections[i]->stream == s)
            return connections[i];
        if (!connections[i] && free_at == 64)
            free_at = i;
    }
    assert_true(free_at < 64);
    connections[free_at] = calloc(1, sizeof **connections);
    connections[free_at]->stream = s;
    connections[free_at]->number = ++broker.connections;
    return connections[free_at];
}

static bool run_connection(struct stream *s)
{
    size_t len;
    uint8_t *data = world_written(s, &len);
    struct connection *c = connection_of(s);
    if (len == 0 || broker.is_frozen)
        return false;
    if (!c->greeted) {
        assert_true(len >= 8);
        assert_memory_equal(data, "AMQP\0\0\x09\x01", 8);
        c->greeted = true;
        world_take_written(s, 8);
        if (!broker.is_mute)
            say_start(c);
        return true;
    }
    /* What is taken may be answered at once, and more be written: a copy. */
    uint8_t *copy = malloc(len);
    memcpy(copy, data, len);
    struct frame frame;
    size_t need;
    enum frame_result result = frame_scan(copy, len, 0, &frame, &need);
    assert_true(result == FRAME_COMPLETE || result == FRAME_PARTIAL);
    if (result == FRAME_COMPLETE) {
        bool leaves =
            frame.type == FRAME_METHOD &&
            method_number(frame.payload, frame.payload_len) == AMQP_CONNECTION_CLOSE_METHOD;
        world_take_written(s, frame.payload_len + FRAME_OVERHEAD_BYTES);
        if (leaves)
            say_plain(c, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
        else if (frame.type == FRAME_METHOD)
            take_method(c, &frame);
        else if (frame.type != FRAME_HEARTBEAT)
            take_content(c, &frame);
    }
    free(copy);
    return result == FRAME_COMPLETE;
}

static void forget_closed(void)
{
    for (unsigned i = 0; i < 64; i++) {
        bool found = false;
        struct stream *s;
        for (unsigned k = 0; connections[i] && (s = world_stream(k)) != NULL; k++)
            found = found || s == connections[i]->stream;
        if (connections[i] && !found) {
            free(connections[i]);
            connections[i] = NULL;
        }
    }
}

bool world_broker_run(void)
{
    struct stream *s;
    forget_closed();
    for (unsigned i = 0; (s = world_stream(i)) != NULL; i++)
        if (!world_is_server_side(s) && world_is_open(s) && run_connection(s))
            return true;
    return false;
}

void broker_cut(void)
{
    struct stream *s;
    for (unsigned i = 0; (s = world_stream(i)) != NULL; i++)
        if (!world_is_server_side(s))
            world_end_stream(s, UV_ECONNRESET);
    world_run();
}

void broker_down(void)
{
    broker.is_there = false;
    broker_cut();
}

void broker_up(void)
{
    broker.is_there = true;
}

void broker_confirm_all(void)
{
    for (unsigned i = 0; i < 64; i++)
        for (uint16_t n = 1; connections[i] && n < CHANNELS; n++)
            confirm(connections[i], n, true);
    world_run();
}

void broker_close_stuck(void)
{
    for (unsigned i = 0; i < 64; i++)
        for (uint16_t n = 1; connections[i] && n < CHANNELS; n++)
            if (connections[i]->channels[n].is_stuck) {
                memset(&connections[i]->channels[n], 0, sizeof connections[i]->channels[n]);
                say_plain(connections[i], n, AMQP_CHANNEL_CLOSE_OK_METHOD);
            }
    world_run();
}

unsigned broker_heard(const char *method)
{
    unsigned count = 0;
    for (unsigned i = 0; i < 1024; i++)
        count += strcmp(broker.heard[i], method) == 0;
    return count;
}

void broker_return_all(void)
{
    for (unsigned i = 0; i < 64; i++)
        for (uint16_t n = 1; connections[i] && n < CHANNELS; n++)
            if (connections[i]->channels[n].mandatory)
                give_back(connections[i], n);
    world_run();
}

void broker_say(uint16_t channel, amqp_method_number_t method, const void *fields)
{
    for (unsigned i = 0; i < 64; i++)
        if (connections[i] && world_is_open(connections[i]->stream))
            say(connections[i], channel, method, fields);
    world_run();
}

static struct connection *last_connection(void)
{
    struct connection *last = NULL;
    for (unsigned i = 0; i < 64; i++)
        if (connections[i] && world_is_open(connections[i]->stream) &&
            (!last || connections[i]->number > last->number))
            last = connections[i];
    assert_non_null(last);
    return last;
}

void broker_deliver(uint16_t channel, const char *consumer, uint64_t tag, const char *body)
{
    amqp_basic_deliver_t m = {.consumer_tag = bytes_of(consumer), .delivery_tag = tag};
    say(last_connection(), channel, AMQP_BASIC_DELIVER_METHOD, &m);
    if (body)
        broker_deliver_rest(channel, body);
    world_run();
}

static void say_header(struct connection *c, uint16_t channel, const char *body)
{
    uint8_t frame[1024] = {0};
    uint8_t *at = frame + FRAME_HEAD_BYTES;
    wire_put16(at, 60);
    wire_put64(at + 4, strlen(body));
    say_frame(c, frame, frame_wrap(frame, FRAME_HEADER, channel, 14));
}

static void say_body(struct connection *c, uint16_t channel, const char *body)
{
    uint8_t frame[1024] = {0};
    memcpy(frame + FRAME_HEAD_BYTES, body, strlen(body));
    say_frame(c, frame, frame_wrap(frame, FRAME_BODY, channel, (uint32_t)strlen(body)));
}

static void say_content(struct connection *c, uint16_t channel, const char *body)
{
    say_header(c, channel, body);
    say_body(c, channel, body);
}

static void say_to_all(void (*says)(struct connection *, uint16_t, const char *), uint16_t channel,
                       const char *body)
{
    for (unsigned i = 0; i < 64; i++)
        if (connections[i] && world_is_open(connections[i]->stream))
            says(connections[i], channel, body);
    world_run();
}

void broker_say_header(uint16_t channel, const char *body)
{
    say_to_all(say_header, channel, body);
}

void broker_say_body(uint16_t channel, const char *body)
{
    say_to_all(say_body, channel, body);
}

void broker_say_content(uint16_t channel, const char *body)
{
    say_to_all(say_content, channel, body);
}

void broker_deliver_rest(uint16_t channel, const char *body)
{
    say_content(last_connection(), channel, body);
    world_run();
}

struct stream *broker_last_stream(void)
{
    return last_connection()->stream;
}
