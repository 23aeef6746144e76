#include "session/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "peer/reply.h"
#include "peer/runtime.h"
#include "peer/send.h"
#include "pool/held.h"
#include "pool/password.h"
#include "pool/pool.h"
#include "session/alike.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/ending.h"
#include "session/failover.h"
#include "session/handshake.h"
#include "session/input.h"
#include "session/malformed.h"
#include "session/relay.h"
#include "session/resend.h"
#include "session/router.h"
#include "session/stored.h"

/* Happy path: header, handshake, connection.open, frames of channels, connection.close, close-ok,
 * end of file. A client may have to wait ("held"): its next frame stays in the stream's input, or
 * a complete publish in its channel, until pool_wake lets it try again.
 *
 * What can fail: the peer breaks the protocol (client_refuse: connection.close, then until
 * close-ok, end of file or a deadline everything it sends is discarded), it has to go although it
 * did nothing wrong (client_leave: the same, but what it still publishes is stored), it goes away
 * (client_close), it is silent for two heartbeats, or the handshake takes too long. Memory goes in
 * on_closed. */

static void on_closed(struct stream *stream)
{
    struct client *c = LIST_ENTRY(stream, struct client, stream);
    list_remove(&c->node);
    c->rt->counters.clients--;
    c->rt->budget.kept -= c->channels_capacity * sizeof(struct channel *);
    handles_remove(c->handle);
    member_deinit(&c->member);
    free(c->properties);
    free(c->channels);
    free(c);
}

/* ---- frames ---- */

static void update_secret(struct client *c, const struct frame *frame)
{
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t method;
    void *decoded;
    if (method_decode(&arena, frame->payload, frame->payload_len, &method, &decoded)) {
        const amqp_connection_update_secret_t *m = decoded;
        c->member.new_secret = strndup(m->new_secret.bytes, m->new_secret.len);
        ENSURE(c->member.new_secret);
        password_ask(c->member.pool);
    } else {
        client_refuse(c, 506, "RESOURCE_ERROR - out of memory for this method",
                      AMQP_CONNECTION_UPDATE_SECRET_METHOD);
    }
    method_arena_deinit(&arena);
}

static void refuse_on_zero(struct client *c, amqp_method_number_t method)
{
    bool unknown = strcmp(method_name(method), "?") == 0;
    client_refuse(c, unknown ? 540 : 504,
                  unknown ? "NOT_IMPLEMENTED - unknown method on channel 0"
                          : "CHANNEL_ERROR - unexpected method in connection state running",
                  method);
}

/* False: the frame has to wait. */
static bool connection_method(struct client *c, const struct frame *frame)
{
    amqp_method_number_t method = method_number(frame->payload, frame->payload_len);
    switch (method) {
    case AMQP_CONNECTION_CLOSE_METHOD:
        ending_begin(c);
        return true;
    case AMQP_CONNECTION_UPDATE_SECRET_METHOD:
        if (c->member.new_secret) { /* one at a time, as RabbitMQ takes them */
            client_hold(c);
            return false;
        }
        update_secret(c, frame);
        return true;
    default:
        refuse_on_zero(c, method);
        return true;
    }
}

static bool open_channel(struct client *c, const struct frame *frame)
{
    amqp_method_number_t method = method_number(frame->payload, frame->payload_len);
    if (frame->type != FRAME_METHOD) {
        client_refuse(c, 505,
                      "UNEXPECTED_FRAME - expected method frame, got non method frame instead", 0);
        return true;
    }
    if (method != AMQP_CHANNEL_OPEN_METHOD) {
        client_refuse(c, 504, "CHANNEL_ERROR - expected 'channel.open'", method);
        return true;
    }
    if (c->channel_max && frame->channel > c->channel_max) {
        client_refuse(c, 530, "NOT_ALLOWED - channel number above the negotiated channel_max",
                      method);
        return true;
    }
    channel_open(c, frame->channel);
    return true;
}

static bool is_being_decided(const struct client *c)
{
    return c->state == CLIENT_PROVING || c->state == CLIENT_LOGIN;
}

/* Told to leave: publishes are taken, and the end of the conversation. Its own close is answered as
 * ever, once all that it covers is safe. */
static bool leaving_frame(struct client *c, const struct frame *frame)
{
    amqp_method_number_t method =
        frame->type == FRAME_METHOD ? method_number(frame->payload, frame->payload_len) : 0;
    if (frame->channel == 0) {
        if (method == AMQP_CONNECTION_CLOSE_OK_METHOD && close_move(&c->close, CLOSE_THEY_ANSWER))
            client_close(c, "told to leave, and it has answered");
        else if (method == AMQP_CONNECTION_CLOSE_METHOD)
            ending_begin(c);
        return true;
    }
    struct channel *ch = client_channel(c, frame->channel);
    return ch ? input_leaving_frame(ch, c->stream.in.slab, frame) : true;
}

static void take_heartbeat(struct client *c, const struct frame *frame)
{
    if (frame->payload_len > 0)
        client_refuse(c, 501, "FRAME_ERROR - heartbeat with a payload", 0);
    else if (frame->channel != 0)
        client_refuse(c, 505, "UNEXPECTED_FRAME - heartbeat on a channel", 0);
}

/* False: the frame has to wait. */
static bool take_frame(struct client *c, const struct frame *frame)
{
    if (c->state == CLIENT_LEAVING)
        return leaving_frame(c, frame);
    if (c->state >= CLIENT_SETTLING) {
        ending_frame(c, frame);
        return true;
    }
    if (frame->type == FRAME_HEARTBEAT) {
        take_heartbeat(c, frame);
        return true;
    }
    if (c->state != CLIENT_OPEN) {
        if (is_being_decided(c) && frame->type == FRAME_METHOD)
            return false; /* sent ahead of tune or open-ok: looked at after it */
        handshake_method(c, frame);
        return true;
    }
    if (malformed_refuse(c, frame))
        return true;
    if (frame->channel == 0) {
        if (frame->type == FRAME_METHOD)
            return connection_method(c, frame);
        client_refuse(c, 505, "UNEXPECTED_FRAME - content frame on channel 0", 0);
        return true;
    }
    struct channel *ch = client_channel(c, frame->channel);
    return ch ? input_frame(ch, c->stream.in.slab, frame) : open_channel(c, frame);
}

static void refuse_frame(struct client *c, enum frame_result result)
{
    static const char *const texts[] = {
        [FRAME_TOO_LARGE] = "FRAME_ERROR - frame larger than the negotiated frame_max",
        [FRAME_BAD_END] = "FRAME_ERROR - invalid frame end marker",
        [FRAME_BAD_TYPE] = "FRAME_ERROR - unknown frame type",
    };
    if (c->state < CLIENT_OPEN) {
        client_close(c, texts[result]); /* no connection to close in an orderly way */
        return;
    }
    client_refuse(c, 501, texts[result], 0);
    client_move(c, CLIENT_GARBLED); /* from REFUSED */
}

static bool take_header(struct client *c)
{
    size_t len;
    uint8_t *data = stream_input(&c->stream, &len);
    if (len < 8) {
        stream_expect(&c->stream, 8);
        return false;
    }
    uint8_t header[8];
    memcpy(header, data, sizeof header);
    stream_consume(&c->stream, sizeof header);
    handshake_header(c, header);
    return true;
}

/* Something of its input was taken: what follows is waited for anew. */
static void went_on(struct client *c)
{
    c->patience_ms = 0;
    if (!c->member.held)
        c->held_since_ms = 0;
}

/* It makes RabbitMQ or the proxy say something that a client which does not read has no room for.
 * All else is taken: many publish for long before they read again, and so does RabbitMQ. Confirms
 * of it wait in the ledger. */
static bool asks_for_more(struct client *c, const struct frame *frame)
{
    enum { UNREAD_CONFIRMS_MAX = 1024 * 1024 };
    const struct channel *ch = client_channel(c, frame->channel);
    if (frame->type != FRAME_METHOD)
        return false;
    amqp_method_number_t method = method_number(frame->payload, frame->payload_len);
    if (!ch) /* there are no more channels than channel_max */
        return method == AMQP_CONNECTION_UPDATE_SECRET_METHOD;
    switch (method) {
    case AMQP_BASIC_PUBLISH_METHOD: /* the last octet: bits, of which the first is mandatory */
        return ((frame->payload[frame->payload_len - 1] & 1) && !client_open_own(c)) ||
               ch->ledger.count >= UNREAD_CONFIRMS_MAX;
    case AMQP_BASIC_ACK_METHOD:
    case AMQP_BASIC_NACK_METHOD:
    case AMQP_BASIC_REJECT_METHOD:
        return false; /* what is delivered for it is not read from RabbitMQ; nor are returns */
    default:
        return true;
    }
}

/* One step of the input; false: nothing more can be done now. */
static bool step(struct client *c)
{
    if (c->state == CLIENT_HEADER)
        return take_header(c);
    bool is_unread = c->state == CLIENT_OPEN && stream_is_full(&c->stream);
    size_t len, need;
    uint8_t *data = stream_input(&c->stream, &len);
    if (c->state == CLIENT_FINISHED) {
        stream_consume(&c->stream, len);
        return false;
    }
    if (c->state == CLIENT_GARBLED) {
        ending_garbled(c);
        return false;
    }
    size_t alike =
        c->state == CLIENT_OPEN && !is_unread ? alike_take(c, c->stream.in.slab, data, len) : 0;
    if (alike > 0) {
        stream_consume(&c->stream, alike);
        went_on(c);
        return true;
    }
    struct frame frame;
    enum frame_result result = frame_scan(data, len, c->frame_max, &frame, &need);
    switch (result) {
    case FRAME_COMPLETE:
        if (is_unread && asks_for_more(c, &frame)) {
            client_hold(c);
            return false;
        }
        if (!take_frame(c, &frame)) {
            if (is_being_decided(c))
                stream_pause(&c->stream);
            return false;
        }
        if (c->state != CLIENT_CLOSED)
            stream_consume(&c->stream, frame.payload_len + FRAME_OVERHEAD_BYTES);
        went_on(c);
        return true;
    case FRAME_PARTIAL:
        stream_expect(&c->stream, need);
        return false;
    default:
        refuse_frame(c, result);
        return c->state == CLIENT_GARBLED;
    }
}

/* A proxy that is stopping accepts nothing more from clients that are open. */
static bool accepts_input(const struct client *c)
{
    return runtime_serves(c->rt) || c->state >= CLIENT_LEAVING;
}

static void process(struct client *c)
{
    if (c->processing)
        return;
    c->processing = true;
    while (c->state != CLIENT_CLOSED && !c->member.held && accepts_input(c) && step(c))
        ;
    c->processing = false;
}

static void retry(struct client *c)
{
    ENSURE(c->member.held);
    held_let_go(&c->member);
    if (!accepts_input(c))
        return;
    if (!resend_run(c)) {
        client_hold(c);
        return;
    }
    if (c->ready) {
        struct channel *ch = c->ready;
        c->ready = NULL;
        if (!input_retry(ch))
            return;
        went_on(c);
    }
    process(c);
    if (!c->member.held && c->state != CLIENT_CLOSED)
        stream_resume(&c->stream);
}

/* ---- events of the stream ---- */

static void on_data(struct stream *stream)
{
    process(LIST_ENTRY(stream, struct client, stream));
}

static void on_writable(struct stream *stream)
{
    struct client *c = LIST_ENTRY(stream, struct client, stream);
    struct upstream *own = client_open_own(c);
    if (own)
        stream_resume(&own->stream);
    for (uint32_t i = 0; i < c->channels_capacity; i++)
        if (c->channels[i])
            channel_say_acks(c->channels[i]);
    if (c->member.pool)
        held_wake(c->member.pool);
}

static void on_end(struct stream *stream, int status)
{
    struct client *c = LIST_ENTRY(stream, struct client, stream);
    if (status == UV_EPROTO && c->state == CLIENT_HEADER)
        LOG_OFTEN(LOG_INFO, "tls_failed", LOG_T("peer", c->peer),
                  LOG_T("reason", stream_why(stream, status)));
    if (status == UV_ENOBUFS || status == UV_ENOMEM)
        LOG_OFTEN(LOG_WARN, "out_of_memory", LOG_N("client", c->id), LOG_T("peer", c->peer));
    client_close(c, status == 0 ? "end of file" : stream_why(stream, status));
}

static const struct stream_handler stream_events = {
    .on_data = on_data,
    .on_writable = on_writable,
    .on_end = on_end,
    .on_closed = on_closed,
};

static const struct member_events member_events;

static void format_peer(struct client *c)
{
    struct sockaddr_storage address;
    int len = sizeof address;
    char host[48] = "?";
    unsigned port = 0;
    if (uv_tcp_getpeername(&c->stream.tcp, (struct sockaddr *)&address, &len) == 0) {
        if (address.ss_family == AF_INET) {
            struct sockaddr_in *in = (struct sockaddr_in *)&address;
            uv_ip4_name(in, host, sizeof host);
            port = ntohs(in->sin_port);
        } else if (address.ss_family == AF_INET6) {
            struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address;
            uv_ip6_name(in6, host, sizeof host);
            port = ntohs(in6->sin6_port);
        }
    }
    snprintf(c->peer, sizeof c->peer, "%s:%u", host, port);
}

const struct pools_events session_pools_events = {
    .on_upstream_lost = failover_shared,
    .on_append = stored_begin,
    .on_appended = stored_end,
};

void session_accept(struct clients *clients, uv_stream_t *listener, struct tls_context *tls,
                    const char *obstacle)
{
    struct client *c = calloc(1, sizeof *c);
    ENSURE(c);
    c->rt = clients->rt;
    c->clients = clients;
    c->id = ++c->rt->next_id;
    c->handle = handles_add(c);
    c->frame_max = HANDSHAKE_FRAME_MAX;
    c->deadline_ms = runtime_now(c->rt) + c->rt->config->listen.handshake_timeout_ms;
    member_init(&c->member, clients->logins, &member_events, c->id, c->peer);
    list_append(&clients->all, &c->node);
    c->rt->counters.clients++;
    stream_init(&c->stream, &c->rt->net, &stream_events);
    if (tls)
        stream_use_tls(&c->stream, tls, NULL);
    int status = stream_accept(&c->stream, listener);
    if (status < 0) {
        client_close(c, uv_strerror(status));
        return;
    }
    format_peer(c);
    if (obstacle) {
        LOG_OFTEN(LOG_WARN, "connection_refused", LOG_T("peer", c->peer),
                  LOG_T("reason", obstacle));
        client_close(c, obstacle);
    }
}

const struct client_handler session_handler = {
    .on_close = ending_close,
    .on_refuse = ending_refuse,
    .on_leave = ending_leave,
    .on_settled = ending_settled,
};

/* ---- what its pool tells ---- */

static struct client *client_of(struct member *m)
{
    return LIST_ENTRY(m, struct client, member);
}

static void go_on(struct client *c)
{
    stream_resume(&c->stream);
    process(c);
}

static void on_proven(struct member *m)
{
    struct client *c = client_of(m);
    handshake_proven(c);
    go_on(c);
}

static void on_admitted(struct member *m)
{
    struct client *c = client_of(m);
    ENSURE(c->state == CLIENT_LOGIN);
    client_move(c, CLIENT_OPEN);
    c->deadline_ms = 0;
    amqp_connection_open_ok_t ok = {.known_hosts = amqp_empty_bytes};
    wire_send(&c->stream, 0, AMQP_CONNECTION_OPEN_OK_METHOD, &ok);
    go_on(c);
}

/* Of one that is open: nobody can empty its queue any more. Who has an upstream of its own goes
 * with that. */
static void on_refused(struct member *m, uint16_t code, const char *text)
{
    struct client *c = client_of(m);
    if (c->state == CLIENT_PROVING)
        handshake_refuse(c, code, text);
    else if (c->state == CLIENT_LOGIN)
        client_refuse(c, code, text, AMQP_CONNECTION_OPEN_METHOD);
    else if (c->state == CLIENT_OPEN && !client_open_own(c))
        client_refuse(c, code, text, 0);
}

static void on_secret(struct member *m, enum secret_verdict verdict)
{
    struct client *c = client_of(m);
    member_forget_secret(m);
    if (c->state != CLIENT_OPEN)
        return;
    if (verdict == SECRET_ACCEPTED)
        wire_send_plain(&c->stream, 0, AMQP_CONNECTION_UPDATE_SECRET_OK_METHOD);
    else if (verdict == SECRET_REFUSED) /* as rabbit_reader says it */
        client_refuse(c, 530, "NOT_ALLOWED - New secret was refused by one of the backends",
                      AMQP_CONNECTION_UPDATE_SECRET_METHOD);
    else
        client_refuse(c, 320, LOST_PERMISSIONS, AMQP_CONNECTION_UPDATE_SECRET_METHOD);
    if (c->member.pool)
        held_wake(c->member.pool); /* it may have sent another one */
}

/* One that would have to wait again keeps its place. */
static void on_wake(struct member *m)
{
    struct client *c = client_of(m);
    if (!c->ready || !router_must_wait(c->ready))
        retry(c);
}

static void on_blocked(struct member *m, bool blocked)
{
    client_tell_alarm(client_of(m), blocked);
}

static void on_password(struct member *m)
{
    struct client *c = client_of(m);
    struct upstream *own = client_open_own(c);
    if (own)
        upstream_update_secret(own, m->pool->secrets.current);
}

static const struct member_events member_events = {
    .on_proven = on_proven,
    .on_admitted = on_admitted,
    .on_refused = on_refused,
    .on_wake = on_wake,
    .on_blocked = on_blocked,
    .on_secret = on_secret,
    .on_password = on_password,
};

/* ---- time ---- */

/* A client that is held is not read from, so its end is not heard of. What it has sent before it
 * ended may still be taken, but not whenever. */
static void look_at_held(struct client *c, uint64_t now_ms)
{
    enum stream_peer peer = stream_look_at_peer(&c->stream);
    if (peer == STREAM_PEER_LOST)
        client_close(c, "connection lost while it was held");
    else if (peer == STREAM_PEER_ENDED &&
             now_ms - c->held_since_ms >= c->rt->config->pool.confirm_timeout_ms)
        client_close(c, "end of file while it was held");
}

static void rest_channels(const struct client *c)
{
    for (uint32_t i = 0; i < c->channels_capacity; i++)
        if (c->channels[i] && c->channels[i]->relay)
            relay_rest(c->channels[i]->relay);
}

static void each_second(struct client *c, uint64_t now_ms)
{
    rest_channels(c);
    if (c->member.held)
        look_at_held(c, now_ms);
}

void session_tick(struct client *c, uint64_t now_ms)
{
    if (c->state == CLIENT_CLOSED)
        return;
    if (c->deadline_ms && now_ms >= c->deadline_ms) {
        client_close(c, c->state < CLIENT_OPEN ? "listen.handshake_timeout" : "no close-ok");
        return;
    }
    stream_rest(&c->stream);
    if (c->member.held && c->patience_ms && now_ms >= c->patience_ms)
        retry(c);
    if (c->state == CLIENT_CLOSED)
        return;
    if (now_ms / 1000 != (now_ms - RUNTIME_TICK_MS) / 1000)
        each_second(c, now_ms);
    if (c->heartbeat_ms == 0 || c->state < CLIENT_LOGIN || c->state > CLIENT_SETTLING)
        return;
    if (now_ms - c->stream.last_write_ms >= c->heartbeat_ms / 2 && c->stream.out.count == 0)
        wire_send_heartbeat(&c->stream);
    /* 4.2.7. Any byte counts, and silence that we cause by not reading does not. */
    if (c->stream.reading && now_ms - c->stream.last_read_ms > 2 * c->heartbeat_ms) {
        LOG_OFTEN(LOG_INFO, "heartbeat_missed", LOG_N("client", c->id), LOG_T("peer", c->peer));
        client_close(c, "missed heartbeats");
    }
}
