#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/wire.h"
#include "base/handles.h"
#include "base/log.h"
#include "base/slab.h"
#include "drain/drain.h"
#include "pool/held.h"
#include "pool/rejected_bound.h"
#include "session/channel.h"
#include "session/orphans.h"
#include "session/session.h"
#include "session/stalled.h"
#include "spooler/spooler.h"

struct world world;

/* ---- begin and end ---- */

void world_begin(const char *const *sets)
{
    unsigned count = 0;
    while (sets && sets[count])
        count++;
    struct config_sources sources = {.file = "/dev/null", .sets = sets, .set_count = count};
    assert_true(config_load(&world.config, &sources, stderr));
    world.now_ms = 1000000;
    world.rt = (struct runtime){.config = &world.config, .serves = true};
    net_init(&world.rt.net, &world.rt.loop);
    world_spool_reset();
    world_broker_reset();
    upstreams_init(&world.upstreams, &world.rt);
    pools_init(&world.pools, &world.upstreams, &session_pools_events);
    logins_init(&world.logins, &world.pools);
    clients_init(&world.clients, &world.logins, &session_handler);
}

int world_setup(void **state)
{
    (void)state;
    log_init(LOG_ERROR, LOG_LOGFMT);
    static const char *const sets[] = {"pool.publish_buffer_size=1000", NULL};
    world_begin(sets);
    return 0;
}

static void close_all(void)
{
    struct list *next;
    for (struct list *n = world.clients.all.next; n != &world.clients.all; n = next) {
        next = n->next;
        client_close(LIST_ENTRY(n, struct client, node), "the test is over");
    }
    for (struct list *n = world.pools.queues.all.next; n != &world.pools.queues.all; n = n->next) {
        struct queue *queue = LIST_ENTRY(n, struct queue, node);
        if (queue->backlog.drain)
            drain_stop(queue->backlog.drain);
    }
    logins_deinit(&world.logins);
    for (struct list *n = world.upstreams.all.next; n != &world.upstreams.all; n = next) {
        next = n->next;
        upstream_close(LIST_ENTRY(n, struct upstream, node));
    }
}

static void assert_nothing_is_left(void)
{
    assert_true(list_empty(&world.clients.all));
    assert_true(list_empty(&world.upstreams.all));
    assert_int_equal(world.rt.counters.clients, 0);
    assert_int_equal(world.rt.counters.upstreams, 0);
    assert_int_equal(world.rt.counters.channels, 0);
    assert_int_equal(world.rt.budget.kept, 0);
    for (struct list *n = world.pools.queues.all.next; n != &world.pools.queues.all; n = n->next) {
        const struct queue *queue = LIST_ENTRY(n, struct queue, node);
        assert_int_equal(queue->retained, 0);
        assert_int_equal(queue->reserved, 0);
        assert_int_equal(queue->appending, 0);
        if (queue->backlog.id)
            assert_int_equal(queue->backlog.waiting + queue->backlog.damaged, disk_count(false));
    }
}

int world_teardown(void **state)
{
    (void)state;
    disk.hangs = false;
    close_all();
    world_run();
    assert_nothing_is_left();
    pools_close(&world.pools);
    world_run();
    world_spool_reset();
    world_broker_reset();
    world_streams_reset();
    upstreams_deinit(&world.upstreams);
    assert_int_equal(slab_live_bytes(), 0);
    config_free(&world.config);
    handles_deinit();
    slab_trim();
    return 0;
}

/* ---- time ---- */

/* As proxy.c does it, for each turn of the loop. */
static bool turn(void)
{
    bool ran = false;
    if (!list_empty(&world.pools.waking)) {
        held_run(&world.pools);
        ran = true;
    }
    struct list *node;
    while ((node = list_first(&world.clients.acking)) != NULL) {
        channel_flush_acks(LIST_ENTRY(node, struct channel, ack_node));
        ran = true;
    }
    return ran;
}

void world_run(void)
{
    unsigned rounds = 0;
    bool ran;
    do {
        assert_true(++rounds < 100000);
        ran = turn();
        ran = world_streams_run() || ran;
        ran = world_broker_run() || ran;
        ran = world_spool_run() || ran;
    } while (ran);
}

static void tick(void)
{
    struct list *next;
    for (struct list *n = world.clients.all.next; n != &world.clients.all; n = next) {
        next = n->next;
        session_tick(LIST_ENTRY(n, struct client, node), world.now_ms);
    }
    for (struct list *n = world.upstreams.all.next; n != &world.upstreams.all; n = next) {
        next = n->next;
        upstream_tick(LIST_ENTRY(n, struct upstream, node), world.now_ms);
    }
    stalled_look(&world.upstreams, world.now_ms);
    orphans_look(&world.upstreams, world.now_ms);
    for (struct list *n = world.pools.queues.all.next; n != &world.pools.queues.all; n = n->next) {
        struct queue *queue = LIST_ENTRY(n, struct queue, node);
        if (queue->backlog.drain)
            drain_tick(queue->backlog.drain, world.now_ms);
        else
            queue_drain_if_possible(queue);
        queue_changed(queue);
        rejected_bound_look(queue, false);
    }
}

void world_pass(uint64_t ms)
{
    for (uint64_t end = world.now_ms + ms; world.now_ms < end;) {
        world.now_ms += RUNTIME_TICK_MS;
        world_run();
        tick();
        world_run();
    }
}

struct queue *world_queue(void)
{
    struct queue *queue = queue_find(&world.pools.queues, "guest", "/");
    assert_non_null(queue);
    return queue;
}

/* ---- clients ---- */

struct peer {
    struct stream *stream;
    uint8_t *frame; /* a copy of the last one that was read */
    struct method_arena arena;
};

struct peer *peer_connect(void)
{
    struct peer *p = calloc(1, sizeof *p);
    session_accept(&world.clients, NULL, NULL, NULL);
    struct client *newest = LIST_ENTRY(world.clients.all.prev, struct client, node);
    p->stream = &newest->stream;
    method_arena_init(&p->arena);
    return p;
}

struct stream *peer_stream(const struct peer *p)
{
    return p->stream;
}

static void peer_free(struct peer *p)
{
    method_arena_deinit(&p->arena);
    free(p->frame);
    free(p);
}

void peer_send(struct peer *p, const void *bytes, size_t len)
{
    world_arrive(p->stream, bytes, len);
}

void peer_send_method(struct peer *p, uint16_t channel, amqp_method_number_t method,
                      const void *fields)
{
    uint8_t frame[FRAME_MIN_SIZE];
    size_t size = method_encode(frame, sizeof frame, channel, method, fields);
    assert_true(size > 0);
    peer_send(p, frame, size);
}

void peer_send_plain(struct peer *p, uint16_t channel, amqp_method_number_t method)
{
    static const uint8_t zeros[256];
    peer_send_method(p, channel, method, zeros);
}

static void send_content(struct peer *p, uint16_t channel, const char *body, uint16_t flags,
                         const void *properties, size_t properties_len)
{
    uint8_t frame[1024] = {0};
    uint8_t *at = frame + FRAME_HEAD_BYTES;
    size_t len = strlen(body);
    wire_put16(at, 60);
    wire_put64(at + 4, len);
    wire_put16(at + 12, flags);
    if (properties_len > 0)
        memcpy(at + 14, properties, properties_len);
    peer_send(p, frame, frame_wrap(frame, FRAME_HEADER, channel, (uint32_t)(14 + properties_len)));
    if (len == 0)
        return;
    memcpy(at, body, len);
    peer_send(p, frame, frame_wrap(frame, FRAME_BODY, channel, (uint32_t)len));
}

void peer_publish_with(struct peer *p, uint16_t channel, const char *routing_key, const char *body,
                       uint16_t flags, const void *properties, size_t len, bool mandatory)
{
    amqp_basic_publish_t publish = {.routing_key = bytes_of(routing_key), .mandatory = mandatory};
    peer_send_method(p, channel, AMQP_BASIC_PUBLISH_METHOD, &publish);
    send_content(p, channel, body, flags, properties, len);
}

void peer_publish_to(struct peer *p, uint16_t channel, const char *exchange,
                     const char *routing_key, const char *body, bool mandatory)
{
    amqp_basic_publish_t publish = {.exchange = bytes_of(exchange),
                                    .routing_key = bytes_of(routing_key),
                                    .mandatory = mandatory};
    peer_send_method(p, channel, AMQP_BASIC_PUBLISH_METHOD, &publish);
    send_content(p, channel, body, 0, NULL, 0);
}

void peer_publish(struct peer *p, uint16_t channel, const char *routing_key, const char *body)
{
    peer_publish_to(p, channel, "", routing_key, body, false);
}

uint32_t peer_read(struct peer *p, struct frame *frame)
{
    size_t len, need;
    world_run();
    uint8_t *data = world_written(p->stream, &len);
    if (len == 0)
        return 0;
    p->frame = realloc(p->frame, len);
    memcpy(p->frame, data, len);
    assert_int_equal(frame_scan(p->frame, len, 0, frame, &need), FRAME_COMPLETE);
    world_take_written(p->stream, frame->payload_len + FRAME_OVERHEAD_BYTES);
    return frame->type == FRAME_METHOD ? method_number(frame->payload, frame->payload_len)
                                       : frame->type;
}

const void *peer_expect(struct peer *p, uint16_t channel, amqp_method_number_t method)
{
    struct frame frame = {0};
    uint32_t found = peer_read(p, &frame);
    if (found != method)
        fail_msg("%s was expected, %s came", method_name(method),
                 found ? method_name(found) : "nothing");
    assert_int_equal(frame.channel, channel);
    amqp_method_number_t number;
    void *decoded;
    assert_true(
        method_decode_reply(&p->arena, frame.payload, frame.payload_len, &number, &decoded));
    return decoded;
}

void peer_expect_nothing(struct peer *p)
{
    struct frame frame = {0};
    uint32_t found = peer_read(p, &frame);
    if (found)
        fail_msg("nothing was expected, %s came", method_name(found));
}

/* The proxy frees a stream that it has closed. */
static bool is_there(const struct peer *p)
{
    struct stream *s;
    for (unsigned i = 0; (s = world_stream(i)) != NULL; i++)
        if (s == p->stream)
            return true;
    return false;
}

void peer_expect_end(struct peer *p)
{
    world_run();
    assert_false(is_there(p));
    peer_free(p);
}

void peer_die(struct peer *p)
{
    world_end_stream(p->stream, UV_ECONNRESET);
    world_run();
    peer_free(p);
}

void peer_close(struct peer *p)
{
    amqp_connection_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
    peer_send_method(p, 0, AMQP_CONNECTION_CLOSE_METHOD, &close);
    peer_expect(p, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
    world_end_stream(p->stream, 0);
    peer_expect_end(p);
}

void peer_send_start_ok(struct peer *p, const char *user, const char *password)
{
    char response[256];
    int len = snprintf(response, sizeof response, "%c%s%c%s", 0, user, 0, password);
    amqp_connection_start_ok_t ok = {.mechanism = bytes_of("PLAIN"),
                                     .response = {(size_t)len, response},
                                     .locale = bytes_of("en_US")};
    peer_send_method(p, 0, AMQP_CONNECTION_START_OK_METHOD, &ok);
}

static uint16_t read_close(struct peer *p, const struct frame *frame)
{
    uint16_t code = wire_get16(frame->payload + 4);
    peer_send_plain(p, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
    peer_expect_end(p);
    return code;
}

void peer_enter(struct peer *p, const char *vhost)
{
    peer_expect(p, 0, AMQP_CONNECTION_TUNE_METHOD);
    amqp_connection_tune_ok_t tune = {.channel_max = 2047, .frame_max = 131072};
    peer_send_method(p, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &tune);
    amqp_connection_open_t open = {.virtual_host = bytes_of(vhost)};
    peer_send_method(p, 0, AMQP_CONNECTION_OPEN_METHOD, &open);
}

struct peer *peer_login_as(const char *user, const char *password, const char *vhost,
                           uint16_t *code)
{
    struct peer *p = peer_connect();
    struct frame frame = {0};
    peer_send(p, "AMQP\0\0\x09\x01", 8);
    peer_expect(p, 0, AMQP_CONNECTION_START_METHOD);
    peer_send_start_ok(p, user, password);
    world_run();
    if (!is_there(p)) { /* a client that cannot be told */
        peer_free(p);
        *code = 403;
        return NULL;
    }
    peer_enter(p, vhost);
    uint32_t answer = peer_read(p, &frame);
    if (answer == AMQP_CONNECTION_OPEN_OK_METHOD)
        return p;
    assert_int_equal(answer, AMQP_CONNECTION_CLOSE_METHOD);
    *code = read_close(p, &frame);
    return NULL;
}

struct peer *peer_login(void)
{
    uint16_t code = 0;
    struct peer *p = peer_login_as("guest", "guest", "/", &code);
    assert_non_null(p);
    return p;
}

void peer_open_channel(struct peer *p, uint16_t channel)
{
    peer_send_plain(p, channel, AMQP_CHANNEL_OPEN_METHOD);
    peer_expect(p, channel, AMQP_CHANNEL_OPEN_OK_METHOD);
}

void peer_open_confirming(struct peer *p, uint16_t channel)
{
    peer_open_channel(p, channel);
    peer_send_plain(p, channel, AMQP_CONFIRM_SELECT_METHOD);
    peer_expect(p, channel, AMQP_CONFIRM_SELECT_OK_METHOD);
}

struct peer *peer_confirming(void)
{
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    return p;
}

void peer_consume(struct peer *p)
{
    amqp_basic_consume_t m = {.queue = bytes_of("q"), .consumer_tag = bytes_of("tag")};
    peer_send_method(p, 1, AMQP_BASIC_CONSUME_METHOD, &m);
    peer_expect(p, 1, AMQP_BASIC_CONSUME_OK_METHOD);
}

struct peer *peer_consumer(void)
{
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    peer_consume(p);
    return p;
}

void peer_expect_ack(struct peer *p, uint64_t tag)
{
    const amqp_basic_ack_t *ack = peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    assert_int_equal(ack->delivery_tag, tag);
}
