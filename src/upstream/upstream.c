#include "upstream/upstream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/test_switch.h"
#include "peer/runtime.h"
#include "peer/send.h"
#include "upstream/addresses.h"
#include "upstream/opening.h"
#include "upstream/upstream_end.h"
#include "upstream/upstream_state.h"

/* Happy path: resolve, connect, protocol header, start / start-ok, tune / tune-ok, open / open-ok,
 * on_open. Then frames go to the links by channel number until the end.
 *
 * addresses.c connects, opening.c logs in, upstream_end.c ends. An end that is the broker's marks
 * it, and others are tried before it.
 *
 * What can fail: the name, the connection, the time limit, an unreadable frame, RabbitMQ's
 * connection.close at any point. All of it ends in upstream_end, once. */

/* AMQPBUF_TEST_LEAVE_MS: a long one shows who waits for it. */
static uint64_t leave_timeout_ms(void)
{
    return test_number("AMQPBUF_TEST_LEAVE_MS", 5000);
}

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

/* ---- what it reads ---- */

static void on_blocked(struct upstream *u, bool blocked)
{
    if (blocked && !u->blocked)
        u->blocked_since_ms = runtime_now(u->rt);
    if (!blocked && u->blocked)
        u->unblocked_ms = runtime_now(u->rt);
    u->blocked = blocked;
    if (blocked)
        LOG_OFTEN(LOG_WARN, "upstream_blocked", LOG_N("upstream", u->id), LOG_T("user", u->user),
                  LOG_T("vhost", u->vhost));
    else
        LOG_OFTEN(LOG_WARN, "upstream_unblocked", LOG_N("upstream", u->id), LOG_T("user", u->user),
                  LOG_T("vhost", u->vhost));
    if (u->events)
        u->events->on_blocked(u);
}

static void dispatch(struct upstream *u, const struct frame *frame, amqp_method_number_t method,
                     void *decoded)
{
    if (method == AMQP_CONNECTION_CLOSE_METHOD)
        upstream_end_by_peer(u, decoded);
    else if (method == AMQP_CONNECTION_START_METHOD && u->state == UPSTREAM_START)
        opening_start(u, frame, decoded);
    else if (method == AMQP_CONNECTION_TUNE_METHOD && u->state == UPSTREAM_TUNE)
        opening_tune(u, decoded);
    else if (method == AMQP_CONNECTION_OPEN_OK_METHOD && u->state == UPSTREAM_OPENING)
        opening_open_ok(u);
    else if (method == AMQP_CONNECTION_CLOSE_OK_METHOD && u->state == UPSTREAM_LEAVING)
        upstream_end_leaving(u);
    else if (method == AMQP_CONNECTION_BLOCKED_METHOD)
        on_blocked(u, true);
    else if (method == AMQP_CONNECTION_UNBLOCKED_METHOD)
        on_blocked(u, false);
    else if (u->state != UPSTREAM_OPEN && u->state != UPSTREAM_LEAVING)
        upstream_end_with(u, "unexpected method during the handshake", 0);
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
        upstream_end_with(u, "unreadable frame on channel 0", 0);
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
        link->handler->on_frame(link, u->stream.in.slab, frame);
}

static void on_data(struct stream *stream)
{
    struct upstream *u = LIST_ENTRY(stream, struct upstream, stream);
    while (u->state != UPSTREAM_CLOSED) {
        size_t len, need;
        uint8_t *data = stream_input(stream, &len);
        if (u->state == UPSTREAM_START && len >= 8 && memcmp(data, "AMQP", 4) == 0) {
            upstream_end_with(u, "the broker does not speak AMQP 0-9-1", 0);
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
            upstream_end_with(u, "unreadable frame from RabbitMQ", 0);
            return;
        }
    }
}

static void on_connected(struct stream *stream, int status)
{
    addresses_connected(LIST_ENTRY(stream, struct upstream, stream), status);
}

static void on_stream_end(struct stream *stream, int status)
{
    struct upstream *u = LIST_ENTRY(stream, struct upstream, stream);
    if (u->state != UPSTREAM_START || !addresses_next(u))
        upstream_end_without_word(u, status);
}

static void on_stream_closed(struct stream *stream)
{
    struct upstream *u = LIST_ENTRY(stream, struct upstream, stream);
    stream->net = NULL;
    if (u->state == UPSTREAM_CONNECTING)
        addresses_connect(u);
    else
        upstream_free_if_gone(u);
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

/* ---- beginning and leaving ---- */

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
    int status = uv_getaddrinfo(&u->rt->loop, &u->resolve, addresses_resolved, u->target->url->host,
                                port, &hints);
    ENSURE(status == 0); /* fails only for arguments that the configuration has excluded */
    return u;
}

void upstream_enter(struct upstream *u, const char *vhost)
{
    ENSURE(u->state == UPSTREAM_TUNED && !u->vhost);
    u->vhost = copy_text(vhost);
    u->deadline_ms = runtime_now(u->rt) + u->rt->config->upstream.connect_timeout_ms;
    opening_enter(u);
}

void upstream_abort(struct upstream *u, const char *why)
{
    upstream_end_with(u, why, 0);
}

bool upstream_is_only_looked_up(const struct upstream *u)
{
    return u->state == UPSTREAM_CLOSED && u->resolve.data && !u->stream.net;
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

static void say_goodbye(struct upstream *u, bool is_answered)
{
    amqp_connection_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
    wire_send(&u->stream, 0, AMQP_CONNECTION_CLOSE_METHOD, &close);
    upstream_move(u, UPSTREAM_LEAVING);
    u->deadline_ms = runtime_now(u->rt) + (is_answered ? leave_timeout_ms() : 0);
}

void upstream_close(struct upstream *u)
{
    if (u->state == UPSTREAM_CLOSED || u->state == UPSTREAM_LEAVING)
        return;
    u->events = NULL;
    list_remove(&u->owner_node);
    if (u->state != UPSTREAM_OPEN) {
        upstream_abandon(u);
        return;
    }
    bool is_stuck = u->stuck > 0;
    upstream_lose_links(u);
    say_goodbye(u, !is_stuck);
}

void upstream_leave(struct upstream *u)
{
    ENSURE(u->state == UPSTREAM_OPEN && u->links.count == 0);
    list_remove(&u->owner_node);
    say_goodbye(u, true);
}

void upstream_tick(struct upstream *u, uint64_t now_ms)
{
    if (u->state == UPSTREAM_CLOSED)
        return;
    if (u->state != UPSTREAM_OPEN) {
        if (now_ms >= u->deadline_ms)
            upstream_end_with(u, "no answer within upstream.connect_timeout", 0);
        else if ((u->state == UPSTREAM_CONNECTING || u->state == UPSTREAM_START) &&
                 now_ms >= u->address_deadline_ms && !u->stream.closing)
            addresses_next(u);
        return;
    }
    stream_rest(&u->stream);
    /* Heartbeats may come all the same. An alarm is no failure. */
    if (stream_is_full(&u->stream) && !u->blocked &&
        now_ms - upstream_reads_since(u, u->stream.last_write_ms) >=
            u->rt->config->pool.confirm_timeout_ms) {
        upstream_end_with(u, "RabbitMQ has read nothing for pool.confirm_timeout", 0);
        return;
    }
    if (u->heartbeat_ms == 0)
        return;
    if (now_ms - u->stream.last_write_ms >= u->heartbeat_ms / 2 && u->stream.out.count == 0)
        wire_send_heartbeat(&u->stream);
    /* 4.2.7: two intervals of silence mean that the peer is gone. Any byte counts. */
    if (u->stream.reading && now_ms - u->stream.last_read_ms > 2 * u->heartbeat_ms)
        upstream_end_with(u, "RabbitMQ has missed two heartbeats", 0);
}

/* ---- links ---- */

bool upstream_is_unread(const struct upstream *u)
{
    return u->blocked && runtime_buffers(u->rt);
}

uint64_t upstream_reads_since(const struct upstream *u, uint64_t ms)
{
    return u->unblocked_ms > ms ? u->unblocked_ms : ms;
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

void upstream_hand_over(struct link *from, struct link *to)
{
    links_hand_over(&from->upstream->links, from, to);
    to->upstream = from->upstream;
    from->upstream = NULL;
}

void upstream_keep_idle(struct link *link)
{
    struct upstream *u = link->upstream;
    links_keep_idle(&u->links, link);
    if (links_are_idle(&u->links))
        u->idle_since_ms = runtime_now(u->rt);
}
