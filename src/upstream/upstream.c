#include "upstream/upstream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/wire.h"
#include "base/assert.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/states.h"
#include "peer/capability.h"
#include "peer/runtime.h"
#include "peer/send.h"

/* Happy path: resolve, connect, protocol header, start / start-ok, tune / tune-ok, open / open-ok,
 * on_open. Then frames go to the links by channel number until the end.
 *
 * A name's addresses are tried in turn, until one sends connection.start; each has its share of
 * the time that is left. An end that is the broker's marks it, and others are tried before it.
 *
 * What can fail: the name, the connection, the time limit, an unreadable frame, RabbitMQ's
 * connection.close at any point. All of it ends in upstream_end, once. */

static const struct states states = {
    .object = "upstream",
    .names = {[UPSTREAM_RESOLVING] = "resolving",
              [UPSTREAM_CONNECTING] = "connecting",
              [UPSTREAM_START] = "start",
              [UPSTREAM_TUNE] = "tune",
              [UPSTREAM_TUNED] = "tuned",
              [UPSTREAM_OPENING] = "opening",
              [UPSTREAM_OPEN] = "open",
              [UPSTREAM_LEAVING] = "leaving",
              [UPSTREAM_CLOSED] = "closed"},
    .next =
        {
            [UPSTREAM_RESOLVING] = TO(UPSTREAM_CONNECTING) | TO(UPSTREAM_CLOSED),
            [UPSTREAM_CONNECTING] =
                TO(UPSTREAM_CONNECTING) | TO(UPSTREAM_START) | TO(UPSTREAM_CLOSED),
            [UPSTREAM_START] = TO(UPSTREAM_CONNECTING) | TO(UPSTREAM_TUNE) | TO(UPSTREAM_CLOSED),
            [UPSTREAM_TUNE] = TO(UPSTREAM_TUNED) | TO(UPSTREAM_CLOSED),
            [UPSTREAM_TUNED] = TO(UPSTREAM_OPENING) | TO(UPSTREAM_CLOSED),
            [UPSTREAM_OPENING] = TO(UPSTREAM_OPEN) | TO(UPSTREAM_CLOSED),
            [UPSTREAM_OPEN] = TO(UPSTREAM_LEAVING) | TO(UPSTREAM_CLOSED),
            [UPSTREAM_LEAVING] = TO(UPSTREAM_CLOSED),
        },
};

static void upstream_move(struct upstream *u, enum upstream_state to)
{
    u->rt->counters.upstreams -= u->state == UPSTREAM_OPEN;
    u->rt->counters.upstreams += to == UPSTREAM_OPEN;
    STATE_MOVE(&states, u->state, to);
}

enum { LEAVE_TIMEOUT_MS = 5000, DEFAULT_FRAME_MAX = 131072 };

/* ---- all of them ---- */

void upstreams_init(struct upstreams *upstreams, struct runtime *rt)
{
    *upstreams = (struct upstreams){.rt = rt};
    list_init(&upstreams->all);
    server_init(&upstreams->server);
    targets_init(&upstreams->targets, rt->config);
}

void upstreams_deinit(struct upstreams *upstreams)
{
    targets_deinit(&upstreams->targets);
    server_deinit(&upstreams->server);
}

/* ---- the end ---- */

static void maybe_free(struct upstream *u)
{
    if (u->state != UPSTREAM_CLOSED || u->resolve.data || u->stream.net)
        return;
    list_remove(&u->node);
    uv_freeaddrinfo(u->addresses);
    free(u->user);
    free(u->vhost);
    free(u->password);
    free(u->client_properties);
    free(u->server_properties);
    under_way_deinit(&u->under_way);
    links_deinit(&u->links);
    free(u);
}

static void connect_address(struct upstream *u);

static void on_stream_closed(struct stream *stream)
{
    struct upstream *u = LIST_ENTRY(stream, struct upstream, stream);
    stream->net = NULL;
    if (u->state == UPSTREAM_CONNECTING)
        connect_address(u);
    else
        maybe_free(u);
}

static void abandon(struct upstream *u)
{
    if (u->state != UPSTREAM_CLOSED)
        upstream_move(u, UPSTREAM_CLOSED);
    u->events = NULL;
    if (u->resolve.data)
        uv_cancel((uv_req_t *)&u->resolve);
    stream_close(&u->stream);
}

static void report_left(struct upstream *u)
{
    if (u->events)
        u->events->on_left(u);
    abandon(u);
}

static void lose_links(struct upstream *u)
{
    struct link *link;
    for (uint32_t at = 0; (link = links_next(&u->links, &at)) != NULL;) {
        link->handler->on_lost(link);
        ENSURE(!links_find(&u->links, (uint16_t)(at - 1)));
    }
}

/* Another code than 320, and a refusal, is about this connection; the broker itself is well. */
static bool target_has_failed(const struct upstream *u, const struct upstream_end *end)
{
    if (u->state == UPSTREAM_OPEN)
        return end->code == 0 || end->code == 320;
    /* Who does not say where to go is sent away in the end. */
    return end->refusal == REFUSAL_NONE && u->state != UPSTREAM_TUNED;
}

/* A login that RabbitMQ refuses is told where that is decided (login_refused). */
static bool is_news(struct upstream *u, const struct upstream_end *end)
{
    return u->state == UPSTREAM_OPEN ||
           (end->refusal != REFUSAL_LOGIN && u->state != UPSTREAM_TUNED &&
            targets_is_news(u->target, end->text, runtime_now(u->rt)));
}

static void log_end(struct upstream *u, const struct upstream_end *end)
{
    if (is_news(u, end))
        LOG(LOG_WARN, u->state == UPSTREAM_OPEN ? "upstream_lost" : "upstream_failed",
            LOG_N("upstream", u->id), LOG_T("host", u->target->url->host),
            LOG_N("port", u->target->url->port), LOG_T("user", u->user), LOG_T("vhost", u->vhost),
            LOG_N("code", end->code), LOG_T("reason", end->text));
    else
        LOG(LOG_DEBUG, "upstream_failed", LOG_N("upstream", u->id),
            LOG_T("host", u->target->url->host), LOG_N("port", u->target->url->port),
            LOG_T("user", u->user), LOG_T("vhost", u->vhost), LOG_N("code", end->code),
            LOG_T("reason", end->text));
}

static void upstream_end(struct upstream *u, const struct upstream_end *end)
{
    const struct upstream_events *events = u->events;
    bool was_open = u->state == UPSTREAM_OPEN;
    if (u->state == UPSTREAM_CLOSED)
        return;
    if (u->state == UPSTREAM_LEAVING || !events) {
        lose_links(u);
        report_left(u);
        return;
    }
    if (target_has_failed(u, end)) {
        targets_failed(&u->upstreams->targets, u->target);
        if (!was_open)
            targets_unanswered(u->target, runtime_now(u->rt));
    }
    log_end(u, end);
    upstream_move(u, UPSTREAM_CLOSED);
    u->end = *end;
    list_remove(&u->owner_node);
    if (was_open) {
        events->on_lost(u, end);
        lose_links(u);
    } else {
        events->on_failed(u, end);
    }
    abandon(u);
}

static void end_with(struct upstream *u, const char *what, int uv_status)
{
    struct upstream_end end = {0};
    if (uv_status)
        snprintf(end.text, sizeof end.text, "%s: %s", what, uv_strerror(uv_status));
    else
        snprintf(end.text, sizeof end.text, "%s", what);
    upstream_end(u, &end);
}

void upstream_abort(struct upstream *u, const char *why)
{
    end_with(u, why, 0);
}

/* False if the one that was tried was the last one. */
static bool next_address(struct upstream *u)
{
    if (!u->address->ai_next)
        return false;
    u->address = u->address->ai_next;
    upstream_move(u, UPSTREAM_CONNECTING);
    stream_close(&u->stream); /* a socket serves one try; on_stream_closed begins the next */
    return true;
}

static size_t login_len(const struct upstream *u)
{
    return strlen(u->user) + strlen(u->password) + u->client_properties_len;
}

/* RabbitMQ before 4.1, or as it is configured, takes 4096 bytes before the connection is tuned, and
 * closes without a word over more. That is no outage. */
static void refuse_long_login(struct upstream *u)
{
    struct upstream_end end = {
        .refusal = REFUSAL_LOGIN, .code = 403, .cause = AMQP_CONNECTION_START_OK_METHOD};
    snprintf(end.text, sizeof end.text,
             "ACCESS_REFUSED - RabbitMQ closed the connection over a login of %zu bytes (see its "
             "initial_frame_max)",
             login_len(u));
    upstream_end(u, &end);
}

static void on_stream_end(struct stream *stream, int status)
{
    struct upstream *u = LIST_ENTRY(stream, struct upstream, stream);
    char text[224] = "RabbitMQ closed the connection";
    if (u->state == UPSTREAM_START && next_address(u))
        return;
    if (u->state == UPSTREAM_TUNE && login_len(u) > FRAME_MIN_SIZE) {
        refuse_long_login(u);
        return;
    }
    if (status != 0)
        snprintf(text, sizeof text, "connection: %s", stream_why(stream, status));
    end_with(u, text, 0);
}

/* ---- the handshake ---- */

static uint8_t *put_bytes(uint8_t *at, const void *bytes, size_t len)
{
    memcpy(at, bytes, len);
    return at + len;
}

static size_t own_properties(const struct upstream *u, uint8_t *out, size_t capacity)
{
    (void)u;
    amqp_field_value_t yes = {AMQP_FIELD_KIND_BOOLEAN, {.boolean = 1}};
    amqp_table_entry_t capabilities[] = {
        {bytes_of("publisher_confirms"), yes},           {bytes_of("basic.nack"), yes},
        {bytes_of("connection.blocked"), yes},           {bytes_of("consumer_cancel_notify"), yes},
        {bytes_of("authentication_failure_close"), yes},
    };
    amqp_table_t capability_table = {sizeof capabilities / sizeof *capabilities, capabilities};
    amqp_table_entry_t entries[] = {
        {bytes_of("product"), {AMQP_FIELD_KIND_UTF8, {.bytes = bytes_of("amqpbuf")}}},
        {bytes_of("version"), {AMQP_FIELD_KIND_UTF8, {.bytes = bytes_of(AMQPBUF_VERSION)}}},
        {bytes_of("capabilities"), {AMQP_FIELD_KIND_TABLE, {.table = capability_table}}},
    };
    amqp_table_t table = {sizeof entries / sizeof *entries, entries};
    size_t len = 0;
    ENSURE(amqp_encode_table((amqp_bytes_t){capacity, out}, &table, &len) == AMQP_STATUS_OK);
    return len;
}

/* Written by hand because client-properties may be a client's own table, passed on as it came. */
static void send_start_ok(struct upstream *u)
{
    uint8_t own[512] = {0};
    const uint8_t *properties = u->client_properties;
    size_t properties_len = u->client_properties_len;
    if (!properties) {
        properties = own;
        properties_len = own_properties(u, own, sizeof own);
    }
    size_t user_len = strlen(u->user), password_len = strlen(u->password);
    size_t response_len = user_len + password_len + 2;
    size_t payload_len = 4 + properties_len + 1 + 5 + 4 + response_len + 1 + 5;
    uint8_t *frame = malloc(payload_len + FRAME_OVERHEAD_BYTES);
    ENSURE(frame);
    uint8_t *at = frame + FRAME_HEAD_BYTES;
    wire_put32(at, AMQP_CONNECTION_START_OK_METHOD);
    at = put_bytes(at + 4, properties, properties_len);
    at = put_bytes(at, "\5PLAIN", 6);
    wire_put32(at, (uint32_t)response_len);
    at += 4;
    *at++ = 0;
    at = put_bytes(at, u->user, user_len);
    *at++ = 0;
    at = put_bytes(at, u->password, password_len);
    put_bytes(at, "\5en_US", 6);
    size_t size = frame_wrap(frame, FRAME_METHOD, 0, (uint32_t)payload_len);
    stream_write_copy(&u->stream, frame, size);
    memset(frame, 0, size);
    free(frame);
}

static void on_start(struct upstream *u, const struct frame *frame,
                     const amqp_connection_start_t *m)
{
    /* Payload: class, method, version-major, version-minor, then the table with its length. */
    const uint8_t *table = frame->payload + 6;
    u->server_properties_len = 4 + (size_t)wire_get32(table);
    u->server_properties = malloc(u->server_properties_len);
    ENSURE(u->server_properties);
    memcpy(u->server_properties, table, u->server_properties_len);
    u->upstreams->server.major = capability_version(&m->server_properties);
    u->offers_confirms = capability_find(&m->server_properties, "publisher_confirms");
    upstream_move(u, UPSTREAM_TUNE);
    targets_answered(u->target);
    send_start_ok(u);
}

static void send_open(struct upstream *u)
{
    amqp_connection_tune_ok_t tune_ok = {
        .channel_max = u->links.max,
        .frame_max = u->frame_max,
        .heartbeat = (uint16_t)(u->heartbeat_ms / 1000),
    };
    wire_send(&u->stream, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &tune_ok);
    amqp_connection_open_t open = {.virtual_host = bytes_of(u->vhost)};
    wire_send(&u->stream, 0, AMQP_CONNECTION_OPEN_METHOD, &open);
    upstream_move(u, UPSTREAM_OPENING);
}

static void on_tune(struct upstream *u, const amqp_connection_tune_t *m)
{
    /* A client's own upstream has as many as the client was offered. */
    uint16_t limit = u->client_properties ? UINT16_MAX : u->rt->config->pool.max_channels;
    if (m->frame_max != 0 && m->frame_max < FRAME_MIN_SIZE) {
        end_with(u, "RabbitMQ's frame_max is below 4096, which no client may use", 0);
        return;
    }
    u->frame_max = m->frame_max ? m->frame_max : DEFAULT_FRAME_MAX;
    u->links.max = m->channel_max && m->channel_max < limit ? m->channel_max : limit;
    uint32_t heartbeat_s = (u->rt->config->upstream.heartbeat_ms + 999) / 1000;
    u->heartbeat_ms = (uint64_t)heartbeat_s * 1000;
    server_remember(&u->upstreams->server, u->server_properties, u->server_properties_len,
                    u->frame_max, m->channel_max);
    upstream_move(u, UPSTREAM_TUNED);
    if (u->vhost)
        send_open(u);
    else
        u->events->on_tuned(u);
}

static void on_open_ok(struct upstream *u)
{
    upstream_move(u, UPSTREAM_OPEN);
    u->idle_since_ms = runtime_now(u->rt);
    LOG(LOG_INFO, "upstream_connected", LOG_N("upstream", u->id),
        LOG_T("host", u->target->url->host), LOG_N("port", u->target->url->port),
        LOG_T("user", u->user), LOG_T("vhost", u->vhost));
    u->events->on_open(u);
}

/* Before open-ok 403 is the login, 530 the vhost; but a limit of connections that is reached (of
 * the vhost, the user, the node) is a 530 too, told by its text alone (rabbit_reader). */
static enum upstream_refusal refusal_of(uint16_t code, const char *text)
{
    if (code != 403 && code != 530)
        return REFUSAL_NONE;
    return code == 530 && strstr(text, " limit (") ? REFUSAL_LIMIT : REFUSAL_LOGIN;
}

static void on_peer_close(struct upstream *u, const amqp_connection_close_t *m)
{
    struct upstream_end end = {
        .code = m->reply_code,
        .cause = (amqp_method_number_t)m->class_id << 16 | m->method_id,
    };
    snprintf(end.text, sizeof end.text, "%.*s", (int)m->reply_text.len,
             (const char *)m->reply_text.bytes);
    /* RabbitMQ names no method when a user has too many channels. */
    if (end.code == 530 && strstr(end.text, "number of channels opened"))
        end.cause = AMQP_CHANNEL_OPEN_METHOD;
    if (u->state != UPSTREAM_OPEN)
        end.refusal = refusal_of(end.code, end.text);
    wire_send_plain(&u->stream, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
    stream_flush(&u->stream);
    upstream_end(u, &end);
}

static void on_blocked(struct upstream *u, bool blocked)
{
    if (blocked && !u->blocked)
        u->blocked_since_ms = runtime_now(u->rt);
    u->blocked = blocked;
    LOG(LOG_WARN, blocked ? "upstream_blocked" : "upstream_unblocked", LOG_N("upstream", u->id),
        LOG_T("user", u->user), LOG_T("vhost", u->vhost));
    if (u->events)
        u->events->on_blocked(u);
}

static void dispatch(struct upstream *u, const struct frame *frame, amqp_method_number_t method,
                     void *decoded)
{
    if (method == AMQP_CONNECTION_CLOSE_METHOD)
        on_peer_close(u, decoded);
    else if (method == AMQP_CONNECTION_START_METHOD && u->state == UPSTREAM_START)
        on_start(u, frame, decoded);
    else if (method == AMQP_CONNECTION_TUNE_METHOD && u->state == UPSTREAM_TUNE)
        on_tune(u, decoded);
    else if (method == AMQP_CONNECTION_OPEN_OK_METHOD && u->state == UPSTREAM_OPENING)
        on_open_ok(u);
    else if (method == AMQP_CONNECTION_CLOSE_OK_METHOD && u->state == UPSTREAM_LEAVING)
        report_left(u);
    else if (method == AMQP_CONNECTION_BLOCKED_METHOD)
        on_blocked(u, true);
    else if (method == AMQP_CONNECTION_UNBLOCKED_METHOD)
        on_blocked(u, false);
    else if (u->state != UPSTREAM_OPEN && u->state != UPSTREAM_LEAVING)
        end_with(u, "unexpected method during the handshake", 0);
}

static void connection_frame(struct upstream *u, const struct frame *frame)
{
    if (frame->type == FRAME_HEARTBEAT)
        return;
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t method;
    void *decoded;
    if (frame->type != FRAME_METHOD ||
        !method_decode_reply(&arena, frame->payload, frame->payload_len, &method, &decoded))
        end_with(u, "unreadable frame on channel 0", 0);
    else
        dispatch(u, frame, method, decoded);
    method_arena_deinit(&arena);
}

static void take_frame(struct upstream *u, const struct frame *frame)
{
    if (frame->channel == 0) {
        connection_frame(u, frame);
        return;
    }
    struct link *link = links_find(&u->links, frame->channel);
    if (link)
        link->handler->on_frame(link, u->stream.in, frame);
}

static void on_data(struct stream *stream)
{
    struct upstream *u = LIST_ENTRY(stream, struct upstream, stream);
    while (u->state != UPSTREAM_CLOSED) {
        size_t len, need;
        uint8_t *data = stream_input(stream, &len);
        if (u->state == UPSTREAM_START && len >= 8 && memcmp(data, "AMQP", 4) == 0) {
            end_with(u, "the broker does not speak AMQP 0-9-1", 0);
            return;
        }
        struct frame frame;
        switch (frame_scan(data, len, u->frame_max, &frame, &need)) {
        case FRAME_COMPLETE:
            take_frame(u, &frame);
            if (u->state != UPSTREAM_CLOSED)
                stream_consume(stream, frame.payload_len + FRAME_OVERHEAD_BYTES);
            break;
        case FRAME_PARTIAL:
            stream_expect(stream, need);
            return;
        default:
            end_with(u, "unreadable frame from RabbitMQ", 0);
            return;
        }
    }
}

/* ---- dialing ---- */

static void address_failed(struct upstream *u, int status)
{
    if (!next_address(u))
        end_with(u, "connect", status);
}

static void on_connected(struct stream *stream, int status)
{
    struct upstream *u = LIST_ENTRY(stream, struct upstream, stream);
    if (u->state != UPSTREAM_CONNECTING)
        return;
    if (status < 0) {
        address_failed(u, status);
        return;
    }
    upstream_move(u, UPSTREAM_START);
    stream_write_copy(stream, "AMQP\0\0\x09\x01", 8);
}

static void on_stream_writable(struct stream *stream)
{
    struct upstream *u = LIST_ENTRY(stream, struct upstream, stream);
    if (u->events)
        u->events->on_writable(u);
}

static const struct stream_handler stream_events = {
    .on_connected = on_connected,
    .on_data = on_data,
    .on_writable = on_stream_writable,
    .on_end = on_stream_end,
    .on_closed = on_stream_closed,
};

static void connect_address(struct upstream *u)
{
    uint64_t now = runtime_now(u->rt), left = 0;
    for (const struct addrinfo *a = u->address; a; a = a->ai_next)
        left++;
    ENSURE(left > 0);
    uint64_t remaining = u->deadline_ms > now ? u->deadline_ms - now : 0;
    u->address_deadline_ms = now + remaining / left;
    if (!u->stream.net)
        stream_init(&u->stream, &u->rt->net, &stream_events);
    if (u->target->url->tls)
        stream_use_tls(&u->stream, u->upstreams->tls, u->target->url->host);
    int status = stream_connect(&u->stream, u->address->ai_addr);
    if (status < 0)
        address_failed(u, status);
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *addresses)
{
    struct upstream *u = request->data;
    request->data = NULL;
    if (u->state == UPSTREAM_CLOSED) {
        uv_freeaddrinfo(addresses);
        maybe_free(u);
        return;
    }
    if (status < 0) {
        uv_freeaddrinfo(addresses);
        end_with(u, "resolve", status);
        return;
    }
    u->addresses = u->address = addresses;
    if (!u->user) {
        u->events->on_tuned(u);
        return;
    }
    upstream_move(u, UPSTREAM_CONNECTING);
    connect_address(u);
}

static char *copy_text(const char *text)
{
    char *copy = text ? strdup(text) : NULL;
    ENSURE(copy || !text);
    return copy;
}

struct upstream *upstream_dial(struct upstreams *upstreams, const char *user, const char *password,
                               const char *vhost, const uint8_t *client_properties,
                               size_t client_properties_len, const struct upstream_events *events,
                               void *owner)
{
    struct upstream *u = calloc(1, sizeof *u);
    ENSURE(u);
    under_way_init(&u->under_way);
    u->rt = upstreams->rt;
    u->upstreams = upstreams;
    u->target = targets_next(&upstreams->targets);
    u->events = events;
    u->owner = owner;
    u->id = ++u->rt->next_id;
    u->user = copy_text(user);
    u->password = copy_text(password);
    u->vhost = copy_text(vhost);
    if (client_properties) {
        u->client_properties = malloc(client_properties_len);
        ENSURE(u->client_properties);
        memcpy(u->client_properties, client_properties, client_properties_len);
        u->client_properties_len = client_properties_len;
    }
    u->deadline_ms = runtime_now(u->rt) + u->rt->config->upstream.connect_timeout_ms;
    links_init(&u->links);
    list_init(&u->owner_node);
    list_append(&upstreams->all, &u->node);
    stream_init(&u->stream, &u->rt->net, &stream_events);
    u->resolve.data = u;
    char port[8];
    snprintf(port, sizeof port, "%u", u->target->url->port);
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    int status =
        uv_getaddrinfo(&u->rt->loop, &u->resolve, on_resolved, u->target->url->host, port, &hints);
    ENSURE(status == 0); /* fails only for arguments that the configuration has excluded */
    return u;
}

void upstream_enter(struct upstream *u, const char *vhost)
{
    ENSURE(u->state == UPSTREAM_TUNED && !u->vhost);
    u->vhost = copy_text(vhost);
    u->deadline_ms = runtime_now(u->rt) + u->rt->config->upstream.connect_timeout_ms;
    send_open(u);
}

void upstream_update_secret(struct upstream *u, const char *secret)
{
    amqp_connection_update_secret_t update = {.new_secret = bytes_of(secret),
                                              .reason = bytes_of("updated by a client")};
    if (!wire_send_within(&u->stream, u->frame_max, 0, AMQP_CONNECTION_UPDATE_SECRET_METHOD,
                          &update))
        LOG_OFTEN(LOG_WARN, "secret_too_long", LOG_N("upstream", u->id), LOG_T("user", u->user),
                  LOG_T("vhost", u->vhost), LOG_N("bytes", update.new_secret.len),
                  LOG_N("frame_max", u->frame_max));
}

static void say_goodbye(struct upstream *u)
{
    amqp_connection_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
    wire_send(&u->stream, 0, AMQP_CONNECTION_CLOSE_METHOD, &close);
    upstream_move(u, UPSTREAM_LEAVING);
    u->deadline_ms = runtime_now(u->rt) + LEAVE_TIMEOUT_MS;
}

void upstream_close(struct upstream *u)
{
    if (u->state == UPSTREAM_CLOSED || u->state == UPSTREAM_LEAVING)
        return;
    u->events = NULL;
    list_remove(&u->owner_node);
    if (u->state != UPSTREAM_OPEN) {
        abandon(u);
        return;
    }
    lose_links(u);
    say_goodbye(u);
}

void upstream_leave(struct upstream *u)
{
    ENSURE(u->state == UPSTREAM_OPEN && u->links.count == 0);
    list_remove(&u->owner_node);
    say_goodbye(u);
}

void upstream_tick(struct upstream *u, uint64_t now_ms)
{
    if (u->state == UPSTREAM_CLOSED)
        return;
    if (u->state != UPSTREAM_OPEN) {
        if (now_ms >= u->deadline_ms)
            end_with(u, "no answer within upstream.connect_timeout", 0);
        else if ((u->state == UPSTREAM_CONNECTING || u->state == UPSTREAM_START) &&
                 now_ms >= u->address_deadline_ms && !u->stream.closing)
            next_address(u);
        return;
    }
    stream_rest(&u->stream);
    /* Heartbeats may come all the same. An alarm is no failure. */
    if (stream_is_full(&u->stream) && !u->blocked &&
        now_ms - u->stream.last_write_ms >= u->rt->config->pool.confirm_timeout_ms) {
        end_with(u, "RabbitMQ has read nothing for pool.confirm_timeout", 0);
        return;
    }
    if (u->heartbeat_ms == 0)
        return;
    if (now_ms - u->stream.last_write_ms >= u->heartbeat_ms / 2 && u->stream.out_count == 0)
        wire_send_heartbeat(&u->stream);
    /* 4.2.7: two intervals of silence mean that the peer is gone. Any byte counts. */
    if (u->stream.reading && now_ms - u->stream.last_read_ms > 2 * u->heartbeat_ms)
        end_with(u, "RabbitMQ has missed two heartbeats", 0);
}

/* ---- links ---- */

bool upstream_is_unread(const struct upstream *u)
{
    return u->blocked && runtime_buffers(u->rt);
}

bool upstream_attach(struct upstream *u, struct link *link)
{
    ENSURE(u->state == UPSTREAM_OPEN && !link->upstream);
    if (!links_add(&u->links, link))
        return false;
    link->upstream = u;
    return true;
}

void upstream_detach(struct link *link)
{
    struct upstream *u = link->upstream;
    links_remove(&u->links, link);
    link->upstream = NULL;
    if (u->links.count == 0)
        u->idle_since_ms = runtime_now(u->rt);
}

void upstream_keep_idle(struct link *link)
{
    struct upstream *u = link->upstream;
    links_keep_idle(&u->links, link);
    if (links_are_idle(&u->links))
        u->idle_since_ms = runtime_now(u->rt);
}
