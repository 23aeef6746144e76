/* Connections and those who use them: dials and their timeouts, silence, who does not read, alarms,
 * closes that wait, logins that come and go, and settings that change. */

#include <string.h>

#include "../world/world.h"
#include "base/log.h"
#include "pool/connections.h"

static int quiet(void **state)
{
    (void)state;
    log_init(LOG_ERROR, LOG_LOGFMT);
    return 0;
}

static void begin(const char *a, const char *b)
{
    world_begin((const char *[]){"pool.publish_buffer_size=1000", a, a ? b : NULL, NULL});
}

static struct pool *the_pool(void)
{
    return LIST_ENTRY(world.pools.all.next, struct pool, node);
}

static void expect_refused(struct peer *p, uint16_t code)
{
    const amqp_connection_close_t *close = peer_expect(p, 0, AMQP_CONNECTION_CLOSE_METHOD);
    assert_int_equal(close->reply_code, code);
    peer_send_plain(p, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
    peer_expect_end(p);
}

/* ---- dials ---- */

static void test_the_back_off_begins_again_after_a_success(void **state)
{
    (void)state;
    begin("upstream.reconnect_min=1s", "upstream.reconnect_max=60s");
    struct peer *p = peer_confirming();
    for (unsigned i = 0; i < 2; i++) {
        broker_down();
        world_pass(600000);
        broker_up();
        world_pass(90000);
        assert_true(connections_are_open(the_pool()));
        unsigned before = broker.connections;
        broker_cut();
        world_pass(2000);
        assert_int_equal(broker.connections, before + 1);
    }
    peer_close(p);
}

/* Taken, and nothing said; or not even taken. */
static void test_a_dial_has_a_timeout(void **state)
{
    (void)state;
    for (unsigned mute = 0; mute < 2; mute++) {
        begin("upstream.connect_timeout=3s", NULL);
        struct peer *p = peer_confirming();
        broker.is_mute = mute;
        broker.is_slow_to_accept = !mute;
        broker_cut();
        world_pass(10000);
        broker.is_mute = broker.is_slow_to_accept = false;
        unsigned before = broker.connections;
        world_pass(10000);
        assert_true(connections_are_open(the_pool()));
        assert_true(broker.connections > before || !mute);
        peer_publish(p, 1, "q", "one");
        peer_expect_ack(p, 1);
        peer_close(p);
        assert_int_equal(world_teardown(NULL), 0);
    }
    world_begin(NULL);
}

/* However many there are: none of them is refused, and none answers. */
static void test_a_known_login_waits_for_one_broker(void **state)
{
    (void)state;
    begin("upstream.url=amqp://one,amqp://two,amqp://three", "upstream.connect_timeout=3s");
    peer_close(peer_confirming());
    broker.is_mute = true;
    broker_cut();
    struct peer *early = peer_connect();
    peer_send(early, "AMQP\0\0\x09\x01", 8);
    peer_expect(early, 0, AMQP_CONNECTION_START_METHOD);
    peer_send_start_ok(early, "guest", "guest");
    world_pass(2000);
    peer_expect_nothing(early);
    world_pass(1000);
    peer_enter(early, "/");
    peer_expect(early, 0, AMQP_CONNECTION_OPEN_OK_METHOD);
    peer_close(early);
    for (unsigned i = 0; i < 60; i++) { /* and later nobody waits at all */
        struct peer *later = peer_confirming();
        peer_publish(later, 1, "q", "stored");
        peer_expect_ack(later, 1);
        peer_close(later);
        world_pass(1000);
    }
}

static void test_who_comes_after_an_outage_waits_for_rabbitmq(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_login();
    broker_down();
    world_pass(20000);
    assert_true(the_pool()->unreachable);
    broker_up();
    world_pass(10000);
    assert_false(the_pool()->unreachable);
    assert_int_equal(the_pool()->dialing, 0);
    peer_close(p);
}

static void test_a_pool_that_needs_a_connection_keeps_trying(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_confirming();
    for (unsigned i = 0; i < 5; i++) {
        broker_cut();
        world_pass(30000);
        assert_int_equal(connections_open_count(the_pool()), 1);
    }
    peer_close(p);
    assert_int_equal(the_pool()->client_count, 0);
    pool_cleanup(the_pool(), world.now_ms + world.config.pool.idle_timeout_ms);
    world_run();
    assert_int_equal(connections_open_count(the_pool()), 0); /* nobody needs it */
}

/* ---- silence ---- */

static void test_a_rabbitmq_that_wants_heartbeats_gets_them(void **state)
{
    (void)state;
    begin("upstream.heartbeat=10s", NULL);
    struct peer *p = peer_login();
    struct stream *s = broker_last_stream();
    uint64_t before = s->last_write_ms;
    world_pass(11000);
    assert_true(s->last_write_ms > before);
    unsigned connections = broker.connections;
    world_pass(30000); /* and it has sent none */
    assert_true(broker.connections > connections);
    peer_close(p);
}

/* ---- who does not read ---- */

static void deliver(unsigned count)
{
    for (unsigned i = 1; i <= count; i++)
        broker_deliver(1, "tag", i, "work");
}

static unsigned deliveries(struct peer *p)
{
    struct frame frame;
    unsigned count = 0;
    uint32_t method;
    while ((method = peer_read(p, &frame)) != 0)
        count += method == AMQP_BASIC_DELIVER_METHOD;
    return count;
}

static void test_who_does_not_read_is_not_delivered_to(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_consumer();
    struct stream *own = broker_last_stream();
    assert_true(own->reading);
    world_set_full(peer_stream(p), true);
    deliver(3);
    assert_false(own->reading);
    world_set_full(peer_stream(p), false);
    assert_true(own->reading);
    unsigned came = deliveries(p);
    deliver(2);
    assert_int_equal(came + deliveries(p), 5);
    peer_die(p);
}

static void test_who_does_not_read_and_dies_leaves_no_connection(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_consumer();
    world_set_full(peer_stream(p), true);
    deliver(3);
    assert_int_equal(world.rt.counters.upstreams, 2);
    peer_die(p);
    world_pass(1000);
    assert_int_equal(world.rt.counters.upstreams, 1);
}

/* ---- between a delivery and its content ---- */

static void test_an_ack_waits_for_the_end_of_a_delivery(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_consumer();
    peer_send_plain(p, 1, AMQP_CONFIRM_SELECT_METHOD);
    peer_expect(p, 1, AMQP_CONFIRM_SELECT_OK_METHOD);
    broker.confirms = BROKER_SILENT;
    peer_publish(p, 1, "q", "one");
    world_run();
    broker_deliver(1, "tag", 1, NULL);
    peer_expect(p, 1, AMQP_BASIC_DELIVER_METHOD);
    broker_confirm_all();
    peer_expect_nothing(p);
    broker_deliver_rest(1, "work");
    struct frame frame;
    assert_int_equal(peer_read(p, &frame), FRAME_HEADER);
    assert_int_equal(peer_read(p, &frame), FRAME_BODY);
    peer_expect_ack(p, 1);
    peer_close(p);
}

/* ---- qos ---- */

static void test_qos_is_said_where_the_consumer_is(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    amqp_basic_qos_t qos = {.prefetch_count = 10};
    peer_send_method(p, 1, AMQP_BASIC_QOS_METHOD, &qos);
    peer_expect(p, 1, AMQP_BASIC_QOS_OK_METHOD);
    assert_int_equal(broker_heard("basic.qos"), 0);
    amqp_basic_consume_t m = {.queue = bytes_of("q"), .consumer_tag = bytes_of("tag")};
    peer_send_method(p, 1, AMQP_BASIC_CONSUME_METHOD, &m);
    peer_expect(p, 1, AMQP_BASIC_CONSUME_OK_METHOD);
    assert_int_equal(broker_heard("basic.qos"), 1);
    peer_expect_nothing(p);
    peer_close(p);
}

/* ---- closes ---- */

static void test_a_connections_close_waits_for_the_confirms(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_confirming();
    broker.confirms = BROKER_SILENT;
    peer_publish(p, 1, "q", "one");
    amqp_connection_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
    peer_send_method(p, 0, AMQP_CONNECTION_CLOSE_METHOD, &close);
    peer_expect_nothing(p);
    broker_confirm_all();
    struct frame frame;
    uint32_t last = 0;
    for (uint32_t method; (method = peer_read(p, &frame)) != 0;)
        last = method;
    assert_int_equal(last, AMQP_CONNECTION_CLOSE_OK_METHOD);
    peer_die(p);
}

/* The channel is gone, over an error of its own; its publish is not confirmed yet. */
static void test_a_connections_close_waits_for_channels_that_are_gone(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_confirming();
    broker.confirms = BROKER_SILENT;
    peer_publish(p, 1, "q", "one");
    amqp_queue_purge_t purge = {.queue = amqp_empty_bytes};
    peer_send_method(p, 1, AMQP_QUEUE_PURGE_METHOD, &purge);
    peer_expect(p, 1, AMQP_CHANNEL_CLOSE_METHOD);
    peer_send_plain(p, 1, AMQP_CHANNEL_CLOSE_OK_METHOD);
    amqp_connection_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
    peer_send_method(p, 0, AMQP_CONNECTION_CLOSE_METHOD, &close);
    peer_expect_nothing(p);
    broker_confirm_all();
    peer_expect(p, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
    peer_die(p);
}

/* It has not even said that the channel is open, and is not given up yet. */
static void test_a_close_does_not_wait_for_a_rabbitmq_that_stands_still(void **state)
{
    (void)state;
    for (unsigned closes_channel = 0; closes_channel < 2; closes_channel++) {
        begin("upstream.heartbeat=0", NULL);
        struct peer *p = peer_login();
        world_run();
        broker.silent_on = AMQP_CHANNEL_OPEN_METHOD;
        broker.confirms = BROKER_SILENT;
        peer_open_confirming(p, 1);
        peer_publish(p, 1, "q", "one");
        amqp_connection_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
        amqp_channel_close_t close_channel = {.reply_code = 200, .reply_text = bytes_of("bye")};
        if (closes_channel)
            peer_send_method(p, 1, AMQP_CHANNEL_CLOSE_METHOD, &close_channel);
        else
            peer_send_method(p, 0, AMQP_CONNECTION_CLOSE_METHOD, &close);
        peer_expect_nothing(p);
        world_pass(world.config.pool.confirm_timeout_ms + 1000);
        peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
        assert_int_equal(disk_count(false), 1);
        if (closes_channel)
            peer_expect(p, 1, AMQP_CHANNEL_CLOSE_OK_METHOD);
        else
            peer_expect(p, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
        peer_die(p);
        broker.silent_on = 0;
        broker.confirms = BROKER_ACKS;
        broker_cut();
        world_pass(10000);
        assert_int_equal(disk_count(false), 0);
        assert_int_equal(world_teardown(NULL), 0);
    }
    begin(NULL, NULL);
}

/* Nothing is published, so nothing is buffered. */
static void test_an_idle_login_buffers_nothing(void **state)
{
    (void)state;
    begin("pool.idle_timeout=1s", NULL);
    peer_close(peer_confirming());
    struct pool *pool = LIST_ENTRY(world.pools.all.next, struct pool, node);
    world_pass(1500);
    pool_cleanup(pool, world.now_ms);
    assert_int_equal(pool->state, POOL_OFFLINE);
    assert_true(pool->buffering_since_ms == 0);
    broker_down();
    struct peer *p = peer_confirming();
    assert_true(pool->buffering_since_ms > 0);
    peer_publish(p, 1, "q", "one");
    peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    broker_up();
    world_pass(10000);
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
    world_pass(1500);
    broker_down(); /* that is an outage, also for who comes later */
    assert_true(pool->buffering_since_ms > 0);
}

static void declare(struct peer *p, bool passive)
{
    amqp_queue_declare_t m = {.queue = bytes_of("q"), .durable = true, .passive = passive};
    peer_send_method(p, 1, AMQP_QUEUE_DECLARE_METHOD, &m);
}

/* In an alarm it has to get in, or that never ends; and so has who asks whether a queue is there.
 */
static void test_a_worker_comes_in_an_alarm(void **state)
{
    (void)state;
    for (unsigned passive = 0; passive < 2; passive++) {
        begin(NULL, NULL);
        struct peer *publisher = peer_confirming(), *p = peer_login(), *another = peer_login();
        peer_open_channel(p, 1);
        peer_open_channel(another, 1);
        peer_publish(publisher, 1, "q", "one");
        peer_expect(publisher, 1, AMQP_BASIC_ACK_METHOD);
        amqp_connection_blocked_t blocked = {.reason = bytes_of("low on memory")};
        broker_say(0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
        declare(p, passive);
        peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
        assert_int_equal(broker.connections, 2);
        assert_int_equal(disk_count(false), 0);
        amqp_basic_consume_t consume = {.queue = bytes_of("q"), .consumer_tag = bytes_of("tag")};
        peer_send_method(p, 1, AMQP_BASIC_CONSUME_METHOD, &consume);
        peer_expect(p, 1, AMQP_BASIC_CONSUME_OK_METHOD);
        declare(another, passive); /* it is known now, but not how many messages are in it */
        peer_expect(another, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
        assert_int_equal(broker.connections, passive ? 3 : 2);
        peer_die(another);
        peer_close(p);
        peer_die(publisher);
        assert_int_equal(world_teardown(NULL), 0);
    }
    world_begin(NULL);
}

/* RabbitMQ takes no more connections: what can be stored is stored. */
static void test_a_declaration_in_an_alarm_without_a_connection(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *publisher = peer_confirming(), *p = peer_login();
    peer_open_channel(p, 1);
    peer_publish(publisher, 1, "q", "one");
    peer_expect(publisher, 1, AMQP_BASIC_ACK_METHOD);
    amqp_connection_blocked_t blocked = {.reason = bytes_of("low on memory")};
    broker_say(0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
    broker.refuse_code = 530;
    strcpy(broker.refuse_text, "NOT_ALLOWED - access to vhost '/' refused: connection limit (1) is "
                               "reached");
    declare(p, false);
    peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
    assert_int_equal(disk_count(false), 1);
    broker.refuse_code = 0;
    broker_say(0, AMQP_CONNECTION_UNBLOCKED_METHOD, &(amqp_connection_unblocked_t){0});
    world_pass(2000);
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
    peer_close(publisher);
}

/* What is asked by direct reply-to is not stored: who waits with it is told why. */
static void test_a_request_in_an_alarm_is_told_of_it(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_consumer();
    static const char reply_to[] = "\x15"
                                   "amq.rabbitmq.reply-to";
    LIST_ENTRY(world.clients.all.prev, struct client, node)->can_be_blocked = true;
    amqp_connection_blocked_t blocked = {.reason = bytes_of("low on memory")};
    broker_say(0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
    peer_publish(p, 1, "q", "stored");
    peer_expect_nothing(p);
    peer_publish_with(p, 1, "q", "asked", 0x0200, reply_to, sizeof reply_to - 1, false);
    peer_expect(p, 0, AMQP_CONNECTION_BLOCKED_METHOD);
    peer_expect_nothing(p);
    assert_int_equal(disk.appended, 1);
    broker_say(0, AMQP_CONNECTION_UNBLOCKED_METHOD, &(amqp_connection_unblocked_t){0});
    peer_expect(p, 0, AMQP_CONNECTION_UNBLOCKED_METHOD);
    world_pass(2000);
    assert_int_equal(broker.published, 2);
    peer_close(p);
}

/* The queue is deleted: that is no answer to what the client had asked before it went. */
static void test_the_end_of_a_consumer_answers_nothing(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_consumer();
    broker.silent_on = AMQP_QUEUE_PURGE_METHOD;
    amqp_queue_purge_t purge = {.queue = bytes_of("q")};
    peer_send_method(p, 1, AMQP_QUEUE_PURGE_METHOD, &purge);
    world_run();
    peer_die(p);
    world_run();
    amqp_basic_cancel_t cancel = {.consumer_tag = bytes_of("tag")};
    amqp_queue_purge_ok_t purged = {0};
    broker_say(1, AMQP_BASIC_CANCEL_METHOD, &cancel);
    assert_int_equal(broker_heard("channel.close"), 0);
    broker_say(1, AMQP_QUEUE_PURGE_OK_METHOD, &purged);
    assert_int_equal(broker_heard("channel.close"), 1);
    world_pass(1000);
}

/* A channel that needs a connection of its own goes there, but not in the middle of a message. */
static void test_a_return_is_whole_before_its_channel_moves(void **state)
{
    (void)state;
    begin("upstream.heartbeat=0", NULL);
    struct peer *p = peer_confirming();
    broker.confirms = BROKER_SILENT;
    peer_publish_to(p, 1, "", "q", "late", true);
    world_pass(world.config.pool.confirm_timeout_ms + 1000);
    peer_expect(p, 1, AMQP_BASIC_ACK_METHOD); /* it is stored, and in doubt */
    amqp_basic_return_t returned = {.reply_code = 312,
                                    .reply_text = bytes_of("NO_ROUTE"),
                                    .exchange = amqp_empty_bytes,
                                    .routing_key = bytes_of("q")};
    broker_say(1, AMQP_BASIC_RETURN_METHOD, &returned);
    peer_expect(p, 1, AMQP_BASIC_RETURN_METHOD);
    amqp_basic_consume_t m = {.queue = bytes_of("q"), .consumer_tag = bytes_of("tag")};
    peer_send_method(p, 1, AMQP_BASIC_CONSUME_METHOD, &m);
    peer_expect_nothing(p); /* although such a connection is there by now */
    assert_int_equal(broker.connections, 2);
    broker_say_content(1, "late");
    struct frame frame;
    assert_int_equal(peer_read(p, &frame), FRAME_HEADER);
    assert_int_equal(peer_read(p, &frame), FRAME_BODY);
    peer_expect(p, 1, AMQP_BASIC_CONSUME_OK_METHOD);
    broker_confirm_all();
    peer_close(p);
}

/* RabbitMQ reads nothing in an alarm: who waited for it would wait until that is over. */
static void test_a_workers_close_does_not_wait_for_an_alarm(void **state)
{
    (void)state;
    for (unsigned alarm_first = 0; alarm_first < 2; alarm_first++) {
        begin(NULL, NULL);
        struct peer *p = peer_consumer();
        broker.silent_calls = true;
        amqp_queue_purge_t purge = {.queue = bytes_of("q")};
        peer_send_method(p, 1, AMQP_QUEUE_PURGE_METHOD, &purge);
        world_run();
        amqp_connection_blocked_t blocked = {.reason = bytes_of("low on memory")};
        amqp_channel_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
        if (alarm_first)
            broker_say(0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
        peer_send_method(p, 1, AMQP_CHANNEL_CLOSE_METHOD, &close);
        world_run();
        if (!alarm_first) {
            peer_expect_nothing(p);
            broker_say(0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
        }
        peer_expect(p, 1, AMQP_CHANNEL_CLOSE_OK_METHOD);
        peer_close(p);
        assert_int_equal(world_teardown(NULL), 0);
    }
    world_begin(NULL);
}

static void test_who_can_be_blocked_says_so(void **state)
{
    (void)state;
    for (int can = 0; can < 2; can++) {
        world_begin((const char *[]){"pool.publish_buffer_size=0", NULL});
        struct peer *p = peer_connect();
        peer_send(p, "AMQP\0\0\x09\x01", 8);
        peer_expect(p, 0, AMQP_CONNECTION_START_METHOD);
        amqp_table_entry_t capability = {bytes_of("connection.blocked"),
                                         {AMQP_FIELD_KIND_BOOLEAN, {.boolean = can}}};
        amqp_table_entry_t entry = {bytes_of("capabilities"),
                                    {AMQP_FIELD_KIND_TABLE, {.table = {1, &capability}}}};
        amqp_connection_start_ok_t ok = {.client_properties = {1, &entry},
                                         .mechanism = bytes_of("PLAIN"),
                                         .response = {12, "\0guest\0guest"},
                                         .locale = bytes_of("en_US")};
        peer_send_method(p, 0, AMQP_CONNECTION_START_OK_METHOD, &ok);
        peer_enter(p, "/");
        peer_expect(p, 0, AMQP_CONNECTION_OPEN_OK_METHOD);
        amqp_connection_blocked_t blocked = {.reason = bytes_of("low on memory")};
        broker_say(0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
        if (can)
            peer_expect(p, 0, AMQP_CONNECTION_BLOCKED_METHOD);
        peer_expect_nothing(p);
        peer_close(p);
        assert_int_equal(world_teardown(NULL), 0);
    }
    world_begin(NULL);
}

/* ---- no-wait, passive ---- */

static void test_no_wait_leaves_nothing_awaited(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    amqp_queue_declare_t m = {.queue = bytes_of("q"), .durable = 1, .nowait = 1};
    peer_send_method(p, 1, AMQP_QUEUE_DECLARE_METHOD, &m);
    peer_expect_nothing(p);
    assert_int_equal(broker_heard("queue.declare"), 1);
    amqp_queue_delete_t delete = {.queue = bytes_of("q"), .nowait = 1};
    peer_send_method(p, 1, AMQP_QUEUE_DELETE_METHOD, &delete);
    peer_expect_nothing(p);
    peer_send_plain(p, 1, AMQP_CONFIRM_SELECT_METHOD);
    peer_expect(p, 1, AMQP_CONFIRM_SELECT_OK_METHOD);
    peer_close(p);
}

static void test_what_is_passive_is_not_stored(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    amqp_exchange_declare_t m = {.exchange = bytes_of("x"), .type = bytes_of("fanout")};
    peer_send_method(p, 1, AMQP_EXCHANGE_DECLARE_METHOD, &m);
    peer_expect(p, 1, AMQP_EXCHANGE_DECLARE_OK_METHOD);
    broker_down();
    m.passive = 1;
    peer_send_method(p, 1, AMQP_EXCHANGE_DECLARE_METHOD, &m);
    peer_expect(p, 1, AMQP_EXCHANGE_DECLARE_OK_METHOD);
    assert_int_equal(disk.appended, 0);
    peer_close(p);
}

/* ---- logins ---- */

static void forget_login(void)
{
    world_pass(70000);
    queue_cleanup(world_queue(), world.now_ms);
    world_run();
}

/* Its next queue begins with the first number again. */
static void test_a_login_that_was_forgotten_leaves_no_numbers(void **state)
{
    (void)state;
    begin("spool.forget_after=60s", "upstream.heartbeat=0");
    struct peer *p = peer_confirming();
    broker_down();
    peer_publish(p, 1, "q", "one");
    peer_expect_ack(p, 1);
    disk.is_damaged = true;
    broker_up();
    world_pass(5000);
    peer_close(p);
    const struct backlog *backlog = &world_queue()->backlog;
    assert_true(remains_have(&backlog->remains, 1));
    disk_lose(1); /* a person has discarded it */
    forget_login();
    assert_int_equal(backlog->id, 0);
    assert_false(remains_have(&backlog->remains, 1));
    assert_int_equal(backlog->damaged, 0);
}

/* Also when it comes again while RabbitMQ is away, or has never been away. */
static void test_a_login_that_was_forgotten_is_stored_again(void **state)
{
    (void)state;
    for (unsigned away = 0; away < 2; away++) {
        begin("spool.forget_after=60s", "upstream.heartbeat=0");
        peer_close(peer_login());
        assert_true(world_queue()->backlog.id > 0);
        forget_login();
        assert_int_equal(world_queue()->backlog.id, 0);
        if (away)
            broker_down();
        struct peer *p = peer_confirming();
        assert_true(world_queue()->backlog.id > 0);
        if (!away)
            broker_down();
        peer_publish(p, 1, "q", "one");
        peer_expect_ack(p, 1);
        assert_int_equal(disk_count(false), 1);
        peer_close(p);
        assert_int_equal(world_teardown(NULL), 0);
    }
    world_begin(NULL);
}

/* ---- settings that change ---- */

static void reload_size(uint64_t size)
{
    world.config.pool.publish_buffer_size = size;
    pool_reconfigured(the_pool());
    world_run();
}

static void test_a_reload_that_turns_buffering_on_stores_the_login(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=0", NULL});
    struct peer *p = peer_confirming();
    assert_int_equal(world_queue()->backlog.id, 0);
    reload_size(1000);
    assert_true(world_queue()->backlog.id > 0);
    broker_down();
    peer_publish(p, 1, "q", "one");
    peer_expect_ack(p, 1);
    assert_int_equal(disk_count(false), 1);
    peer_close(p);
}

/* Nothing was kept of it: its publisher hears so. */
static void test_what_was_sent_before_buffering_was_on_is_not_dropped_in_silence(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=0", NULL});
    struct peer *p = peer_confirming();
    broker.confirms = BROKER_SILENT;
    peer_publish(p, 1, "q", "one");
    world_run();
    reload_size(1000);
    broker_down();
    expect_refused(p, 320);
    assert_int_equal(disk.appended, 0);
}

int main(void)
{
#define ALONE(test) cmocka_unit_test_setup_teardown(test, quiet, world_teardown)
    const struct CMUnitTest tests[] = {
        ALONE(test_the_back_off_begins_again_after_a_success),
        ALONE(test_a_dial_has_a_timeout),
        ALONE(test_a_known_login_waits_for_one_broker),
        ALONE(test_who_comes_after_an_outage_waits_for_rabbitmq),
        ALONE(test_a_pool_that_needs_a_connection_keeps_trying),
        ALONE(test_a_rabbitmq_that_wants_heartbeats_gets_them),
        ALONE(test_who_does_not_read_is_not_delivered_to),
        ALONE(test_who_does_not_read_and_dies_leaves_no_connection),
        ALONE(test_an_ack_waits_for_the_end_of_a_delivery),
        ALONE(test_qos_is_said_where_the_consumer_is),
        ALONE(test_a_connections_close_waits_for_the_confirms),
        ALONE(test_a_connections_close_waits_for_channels_that_are_gone),
        ALONE(test_a_close_does_not_wait_for_a_rabbitmq_that_stands_still),
        ALONE(test_an_idle_login_buffers_nothing),
        ALONE(test_a_worker_comes_in_an_alarm),
        ALONE(test_a_declaration_in_an_alarm_without_a_connection),
        ALONE(test_a_request_in_an_alarm_is_told_of_it),
        ALONE(test_the_end_of_a_consumer_answers_nothing),
        ALONE(test_a_return_is_whole_before_its_channel_moves),
        ALONE(test_a_workers_close_does_not_wait_for_an_alarm),
        ALONE(test_who_can_be_blocked_says_so),
        ALONE(test_no_wait_leaves_nothing_awaited),
        ALONE(test_what_is_passive_is_not_stored),
        ALONE(test_a_login_that_was_forgotten_is_stored_again),
        ALONE(test_a_login_that_was_forgotten_leaves_no_numbers),
        ALONE(test_a_reload_that_turns_buffering_on_stores_the_login),
        ALONE(test_what_was_sent_before_buffering_was_on_is_not_dropped_in_silence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
