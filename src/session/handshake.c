#include "session/handshake.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/method.h"
#include "amqp/table.h"
#include "amqp/wire.h"
#include "base/assert.h"
#include "base/log.h"
#include "peer/capability.h"
#include "peer/reply.h"
#include "peer/runtime.h"
#include "peer/send.h"
#include "pool/login.h"
#include "pool/pool.h"
#include "session/client.h"

/* Happy path: header, start / start-ok, the login is proven, tune / tune-ok, open, the vhost is
 * opened, open-ok. What RabbitMQ would refuse is refused with its code, and where it would; the
 * login itself is RabbitMQ's to judge (login.h). */

/* connection.start is written by hand: server-properties are RabbitMQ's own bytes. */
static void send_start(struct client *c)
{
    static const char mechanisms[] = "PLAIN AMQPLAIN", locales[] = "en_US";
    const struct server *server = &c->clients->pools->upstreams->server;
    size_t payload_len =
        4 + 2 + server->properties_len + 4 + strlen(mechanisms) + 4 + strlen(locales);
    uint8_t *frame = malloc(payload_len + FRAME_OVERHEAD_BYTES);
    ENSURE(frame);
    uint8_t *at = frame + FRAME_HEAD_BYTES;
    wire_put32(at, AMQP_CONNECTION_START_METHOD);
    at[4] = 0; /* version 0-9 */
    at[5] = 9;
    memcpy(at + 6, server->properties, server->properties_len);
    at += 6 + server->properties_len;
    wire_put32(at, (uint32_t)strlen(mechanisms));
    memcpy(at + 4, mechanisms, strlen(mechanisms));
    at += 4 + strlen(mechanisms);
    wire_put32(at, (uint32_t)strlen(locales));
    memcpy(at + 4, locales, strlen(locales));
    stream_write_copy(&c->stream, frame, frame_wrap(frame, FRAME_METHOD, 0, (uint32_t)payload_len));
    free(frame);
}

static const char *what_it_speaks(const uint8_t header[8])
{
    static const struct {
        const char *beginning, *reason;
    } others[] = {
        {"AMQP", "it speaks another version of AMQP than 0-9-1"},
        {"\x16\x03", "it speaks TLS, which is for listen.tls_port"},
        {"GET ", "it speaks HTTP"},
        {"HEAD ", "it speaks HTTP"},
        {"PROXY ", "it speaks HAProxy's PROXY protocol (send-proxy)"},
        {"\r\n\r\n", "it speaks HAProxy's PROXY protocol (send-proxy-v2)"},
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (memcmp(header, others[i].beginning, strlen(others[i].beginning)) == 0)
            return others[i].reason;
    return "its first bytes are no header of AMQP";
}

void handshake_header(struct client *c, const uint8_t header[8])
{
    static const uint8_t ours[8] = {'A', 'M', 'Q', 'P', 0, 0, 9, 1};
    static const uint8_t of_0_9[8] = {'A', 'M', 'Q', 'P', 1, 1, 0, 9}; /* the same to RabbitMQ */
    if (memcmp(header, ours, sizeof ours) != 0 && memcmp(header, of_0_9, sizeof of_0_9) != 0) {
        LOG_OFTEN(LOG_INFO, "not_amqp", LOG_T("peer", c->peer),
                  LOG_T("reason", what_it_speaks(header)));
        stream_write_copy(&c->stream, ours, sizeof ours); /* 4.2.2: say what we speak, close */
        stream_flush(&c->stream);
        client_close(c, "wrong protocol header");
        return;
    }
    send_start(c);
    client_move(c, CLIENT_START);
}

static char *copy_bytes(const void *bytes, size_t len)
{
    if (memchr(bytes, 0, len))
        return NULL;
    char *copy = malloc(len + 1);
    ENSURE(copy);
    memcpy(copy, bytes, len);
    copy[len] = 0;
    return copy;
}

/* PLAIN (RFC 4616): authorization id, NUL, user, NUL, password. RabbitMQ lets nobody act for
 * another one, nor name himself twice: the id is empty. */
static bool read_plain(struct client *c, amqp_bytes_t response)
{
    const char *at = response.bytes, *end = at + response.len;
    if (response.len == 0 || *at != 0)
        return false;
    const char *user = at + 1;
    const char *password = memchr(user, 0, (size_t)(end - user));
    if (!password)
        return false;
    c->member.user = copy_bytes(user, (size_t)(password - user));
    password++;
    c->member.password = copy_bytes(password, (size_t)(end - password));
    return c->member.user && c->member.password;
}

static char *read_text(amqp_bytes_t table, const char *name)
{
    const uint8_t *value = table_find(table.bytes, table.len, name);
    if (!value || *value != 'S')
        return NULL;
    struct cursor c = {value + 1, (const uint8_t *)table.bytes + table.len, false};
    size_t len = cursor_u32(&c);
    const uint8_t *text = cursor_take(&c, len);
    return text ? copy_bytes(text, len) : NULL;
}

/* AMQPLAIN (RabbitMQ, rabbit_auth_mechanism_amqplain): a table without its length in front, with
 * the long strings LOGIN and PASSWORD. */
static bool read_amqplain(struct client *c, amqp_bytes_t response)
{
    if (response.len == 0 || !table_check(response.bytes, response.len))
        return false;
    c->member.user = read_text(response, "LOGIN");
    c->member.password = read_text(response, "PASSWORD");
    return c->member.user && c->member.password;
}

static bool bytes_equal(amqp_bytes_t bytes, const char *text)
{
    return bytes.len == strlen(text) && memcmp(bytes.bytes, text, bytes.len) == 0;
}

static void send_tune(struct client *c)
{
    const struct server *server = &c->clients->pools->upstreams->server;
    uint32_t heartbeat_s = (c->rt->config->listen.heartbeat_ms + 999) / 1000;
    amqp_connection_tune_t tune = {
        .channel_max = server->channel_max,
        .frame_max = server->frame_max,
        .heartbeat = (uint16_t)heartbeat_s,
    };
    wire_send(&c->stream, 0, AMQP_CONNECTION_TUNE_METHOD, &tune);
    c->channel_max = server->channel_max;
    c->frame_max = server->frame_max;
    client_move(c, CLIENT_TUNE);
}

/* RabbitMQ is asked within upstream.connect_timeout for each broker, and once more for the turn. */
static void await_decision(struct client *c, enum client_state state)
{
    const struct config *config = c->rt->config;
    client_move(c, state);
    c->deadline_ms = runtime_now(c->rt) + config->listen.handshake_timeout_ms +
                     (uint64_t)config->upstream.connect_timeout_ms *
                         (c->clients->pools->upstreams->targets.count + 1);
}

/* Who does not know that connection.close may come here sees the end of the connection, as from
 * RabbitMQ. */
static void refuse_login(struct client *c, uint16_t code, const char *text,
                         amqp_method_number_t cause)
{
    if (c->can_be_refused)
        client_refuse(c, code, text, cause);
    else
        client_close(c, text);
}

/* For an upstream of its own. RabbitMQ takes no longer frame here than the smallest, and what fits
 * into that must not exceed it. */
static void keep_properties(struct client *c, const struct frame *frame)
{
    const uint8_t *table = frame->payload + 4; /* behind the method's number, its length in front */
    size_t len = 4 + (size_t)wire_get32(table), announced = len;
    c->properties = capability_announce(table, &announced);
    c->properties_len = announced;
    if (frame_fits(frame->payload_len, FRAME_MIN_SIZE) &&
        !frame_fits(frame->payload_len + announced - len, FRAME_MIN_SIZE)) {
        memcpy(c->properties, table, len);
        c->properties_len = len;
    }
}

static void on_start_ok(struct client *c, const struct frame *frame,
                        const amqp_connection_start_ok_t *m)
{
    bool read = bytes_equal(m->mechanism, "PLAIN")      ? read_plain(c, m->response)
                : bytes_equal(m->mechanism, "AMQPLAIN") ? read_amqplain(c, m->response)
                                                        : false;
    if (!bytes_equal(m->mechanism, "PLAIN") && !bytes_equal(m->mechanism, "AMQPLAIN")) {
        client_refuse(c, 503, "COMMAND_INVALID - unknown authentication mechanism",
                      AMQP_CONNECTION_START_OK_METHOD);
        return;
    }
    c->can_be_refused = capability_find(&m->client_properties, "authentication_failure_close");
    if (!read) {
        refuse_login(c, 403, "ACCESS_REFUSED - unreadable authentication response",
                     AMQP_CONNECTION_START_OK_METHOD);
        return;
    }
    keep_properties(c, frame);
    c->can_be_blocked = capability_find(&m->client_properties, "connection.blocked");
    identity_init(&c->member.identity, c->member.user, c->member.password);
    await_decision(c, CLIENT_PROVING);
    login_begin(&c->member);
}

void handshake_proven(struct client *c)
{
    ENSURE(c->state == CLIENT_PROVING);
    c->deadline_ms = runtime_now(c->rt) + c->rt->config->listen.handshake_timeout_ms;
    send_tune(c);
}

void handshake_refuse(struct client *c, uint16_t code, const char *text)
{
    ENSURE(c->state == CLIENT_PROVING);
    refuse_login(c, code, text, 0);
}

static void on_tune_ok(struct client *c, const amqp_connection_tune_ok_t *m)
{
    uint32_t frame_max = m->frame_max;
    if (frame_max != 0 && frame_max < FRAME_MIN_SIZE) {
        client_refuse(c, 530, "NOT_ALLOWED - negotiated frame_max is lower than 4096",
                      AMQP_CONNECTION_TUNE_OK_METHOD);
        return;
    }
    if (c->frame_max != 0 && (frame_max == 0 || frame_max > c->frame_max)) {
        client_refuse(c, 530, "NOT_ALLOWED - negotiated frame_max is higher than the maximum",
                      AMQP_CONNECTION_TUNE_OK_METHOD);
        return;
    }
    if (c->channel_max != 0 && (m->channel_max == 0 || m->channel_max > c->channel_max)) {
        client_refuse(c, 530, "NOT_ALLOWED - negotiated channel_max is higher than the maximum",
                      AMQP_CONNECTION_TUNE_OK_METHOD);
        return;
    }
    c->frame_max = frame_max;
    c->channel_max = m->channel_max;
    c->heartbeat_ms = (uint64_t)m->heartbeat * 1000;
    client_move(c, CLIENT_OPENING);
}

static void on_open(struct client *c, const amqp_connection_open_t *m)
{
    c->member.vhost = copy_bytes(m->virtual_host.bytes, m->virtual_host.len);
    if (!c->member.vhost) {
        client_refuse(c, 530, "NOT_ALLOWED - vhost not found", AMQP_CONNECTION_OPEN_METHOD);
        return;
    }
    if (!runtime_serves(c->rt)) {
        client_refuse(c, 320, LOST_PROXY, AMQP_CONNECTION_OPEN_METHOD);
        return;
    }
    await_decision(c, CLIENT_LOGIN);
    login_enter(&c->member);
}

void handshake_method(struct client *c, const struct frame *frame)
{
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t method;
    void *decoded;
    if (frame->type != FRAME_METHOD || frame->channel != 0) {
        client_close(c, "unexpected frame in the handshake");
    } else if (!method_decode(&arena, frame->payload, frame->payload_len, &method, &decoded)) {
        client_refuse(c, 502, "SYNTAX_ERROR - malformed method in the handshake",
                      method_number(frame->payload, frame->payload_len));
    } else if (method == AMQP_CONNECTION_START_OK_METHOD && c->state == CLIENT_START) {
        on_start_ok(c, frame, decoded);
    } else if (method == AMQP_CONNECTION_TUNE_OK_METHOD && c->state == CLIENT_TUNE) {
        on_tune_ok(c, decoded);
    } else if (method == AMQP_CONNECTION_OPEN_METHOD && c->state == CLIENT_OPENING) {
        on_open(c, decoded);
    } else if (method == AMQP_CONNECTION_CLOSE_METHOD) {
        wire_send_plain(&c->stream, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
        stream_flush(&c->stream);
        client_close(c, "closed during the handshake");
    } else {
        client_refuse(c, 503, "COMMAND_INVALID - unexpected method in the handshake", method);
    }
    method_arena_deinit(&arena);
}
