/* Drains: what RabbitMQ fails at, what it is silent about, what ends its connections, and what is
 * rejected. */

#include <stdio.h>
#include <string.h>

#include "../world/world.h"
#include "amqp/wire.h"
#include "base/log.h"
#include "drain/drain.h"
#include "pool/connections.h"

static int quiet(void **state)
{
    (void)state;
    log_init(LOG_ERROR, LOG_LOGFMT);
    return 0;
}

static struct peer *begin(const char *a, const char *b)
{
    world_begin((const char *[]){"pool.publish_buffer_size=1000", a, a ? b : NULL, NULL});
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    return p;
}

static void expect_acked_up_to(struct peer *p, uint64_t tag)
{
    uint64_t acked = 0;
    while (acked < tag)
        acked = ((const amqp_basic_ack_t *)peer_expect(p, 1, AMQP_BASIC_ACK_METHOD))->delivery_tag;
    assert_int_equal(acked, tag);
}

static void expect_refused(struct peer *p, uint16_t code)
{
    const amqp_connection_close_t *close = peer_expect(p, 0, AMQP_CONNECTION_CLOSE_METHOD);
    assert_int_equal(close->reply_code, code);
    peer_send_plain(p, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
    peer_expect_end(p);
}

/* Publishes in an outage, each to a destination of its own. */
static void store(struct peer *p, unsigned count)
{
    char body[16];
    broker_down();
    for (unsigned i = 0; i < count; i++) {
        snprintf(body, sizeof body, "%u", i);
        peer_publish(p, 1, body, body);
    }
    expect_acked_up_to(p, count);
    assert_int_equal(disk_count(false), count);
}

static unsigned times_published(const char *body)
{
    unsigned count = 0;
    for (unsigned i = 0; i < broker.published; i++)
        count += strcmp(broker.bodies[i], body) == 0;
    return count;
}

static void declare(struct peer *p, const char *name)
{
    amqp_queue_declare_t m = {.queue = bytes_of(name), .durable = true};
    peer_send_method(p, 1, AMQP_QUEUE_DECLARE_METHOD, &m);
}

/* ---- channels that nack for ever ---- */

static void test_the_drain_tries_again_on_another_channel(void **state)
{
    (void)state;
    struct peer *p = begin("drain.nack_limit=3", NULL);
    store(p, 1);
    broker.bad_channels = 1;
    broker_up();
    world_pass(60000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(disk_count(true), 0);
    assert_int_equal(broker.published, 2);
    peer_close(p);
}

static void test_a_publisher_leaves_such_a_channel(void **state)
{
    (void)state;
    broker.bad_channels = 0;
    struct peer *p = begin(NULL, NULL);
    broker.bad_channels = 1;
    peer_publish(p, 1, "q", "one");
    peer_expect(p, 1, AMQP_BASIC_NACK_METHOD);
    peer_publish(p, 1, "q", "two");
    const amqp_basic_ack_t *ack = peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    assert_int_equal(ack->delivery_tag, 2);
    peer_close(p);
}

/* ---- what the spool cannot let go of ---- */

static void assert_nothing_waits(unsigned damaged)
{
    const struct backlog *backlog = &world_queue()->backlog;
    assert_int_equal(backlog->waiting, 0);
    assert_int_equal(backlog->damaged, damaged);
    assert_null(backlog->drain);
}

static void test_what_stays_in_the_spool_is_sent_once(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    store(p, 3);
    disk.is_damaged = true;
    broker_up();
    world_pass(2000);
    assert_int_equal(broker.published, 3);
    assert_nothing_waits(3);
    broker_down();
    peer_publish(p, 1, "later", "later");
    expect_acked_up_to(p, 4);
    broker_up();
    world_pass(2000);
    assert_int_equal(broker.published, 4);
    assert_nothing_waits(4);
    disk.is_damaged = false;
    peer_close(p);
}

static void test_what_is_refused_and_stays_is_sent_once(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    broker.close_code = 404;
    broker_down();
    peer_publish(p, 1, "!bad", "!bad");
    expect_acked_up_to(p, 1);
    disk.is_damaged = true;
    broker_up();
    world_pass(2000);
    assert_nothing_waits(1);
    assert_int_equal(world_queue()->backlog.rejected, 0); /* it is not in the list */
    unsigned published = broker.published;
    broker_down();
    peer_publish(p, 1, "later", "later");
    expect_acked_up_to(p, 2);
    broker_up();
    world_pass(2000);
    assert_int_equal(broker.published, published + 1);
    assert_nothing_waits(2);
    disk.is_damaged = false;
    peer_close(p);
}

/* ---- silence ---- */

/* More than may be tried before all others; the next drain begins at the first record. */
static void test_many_silent_destinations_and_a_lost_connection(void **state)
{
    (void)state;
    static const unsigned counts[] = {63, 64, 100};
    for (unsigned i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct peer *p = begin("pool.confirm_timeout=300ms", NULL);
        store(p, counts[i]);
        broker.confirms = BROKER_SILENT;
        broker_up();
        world_pass(3000);
        assert_true(broker.published >= counts[i]);
        peer_publish(p, 1, "fine", "fine");
        expect_acked_up_to(p, counts[i] + 1);
        broker.confirms = BROKER_ACKS;
        broker_cut();
        world_pass(30000);
        assert_int_equal(disk_count(false), 0);
        assert_int_equal(world_queue()->backlog.drained, counts[i] + 1);
        peer_close(p);
        assert_int_equal(world_teardown(NULL), 0);
    }
    world_begin(NULL);
}

/* One message to each of so many destinations, in an outage; the kind is what they begin with: '~'
 * is never confirmed, '@' stops its channel (broker.c). */
static void spool_one_each(struct peer *p, char kind, unsigned count)
{
    char body[16];
    broker_down();
    for (unsigned i = 0; i < count; i++) {
        snprintf(body, sizeof body, "%c%u", kind, i);
        peer_publish(p, 1, body, body);
    }
}

/* Their turn comes every three seconds, and on each new connection. */
static void test_many_silent_destinations_hold_nobody_up(void **state)
{
    (void)state;
    enum { SILENT = 200 };
    struct peer *p = begin("pool.confirm_timeout=300ms", NULL);
    spool_one_each(p, '~', SILENT);
    expect_acked_up_to(p, SILENT);
    broker_up();
    world_pass(2000);
    for (unsigned i = 1; i <= 100; i++) {
        if (i == 50) {
            broker_cut();
            world_pass(1000);
        }
        peer_publish(p, 1, "fine", "fine");
        expect_acked_up_to(p, SILENT + i);
        world_pass(250);
        assert_int_equal(disk_count(false), SILENT);
    }
    for (unsigned i = 0; i < 200; i++) {
        broker_confirm_all();
        world_pass(250);
    }
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
}

static void test_a_drain_does_not_wait_for_its_channel_for_ever(void **state)
{
    (void)state;
    static const amqp_method_number_t methods[] = {AMQP_CHANNEL_OPEN_METHOD,
                                                   AMQP_CONFIRM_SELECT_METHOD};
    for (unsigned i = 0; i < 2; i++) {
        struct peer *p = begin(NULL, NULL);
        store(p, 1);
        broker.silent_on = methods[i];
        broker_up();
        world_pass(world.config.pool.confirm_timeout_ms + 15000);
        assert_true(broker.connections >= 3); /* the one that was silent is given up */
        assert_int_equal(disk_count(false), 1);
        broker.silent_on = 0;
        world_pass(world.config.pool.confirm_timeout_ms + 15000);
        assert_int_equal(disk_count(false), 0);
        assert_int_equal(broker.published, 1);
        peer_close(p);
        assert_int_equal(world_teardown(NULL), 0);
    }
    world_begin(NULL);
}

/* The proxy's end of the connection that all share, while there is another one. */
static struct stream *shared_stream(void)
{
    struct stream *s = world_stream(0);
    for (unsigned i = 0; s == broker_last_stream() || world_is_server_side(s); i++)
        s = world_stream(i);
    return s;
}

static void publish_many(struct peer *p, const char *form, const char *key, unsigned count)
{
    char body[16];
    for (unsigned i = 0; i < count; i++) {
        snprintf(body, sizeof body, form, i);
        peer_publish(p, 1, key, body);
    }
}

/* A drain that goes back over a refusal passes over the same ones in doubt again, and still sees
 * what is left. */
static void test_refusals_in_a_backlog_beside_what_is_in_doubt(void **state)
{
    (void)state;
    struct peer *shared = begin("pool.confirm_timeout=5s", "upstream.heartbeat=0"),
                *own = peer_login();
    peer_open_channel(own, 1);
    amqp_basic_consume_t consume = {.queue = bytes_of("q"), .consumer_tag = bytes_of("tag")};
    peer_send_method(own, 1, AMQP_BASIC_CONSUME_METHOD, &consume);
    peer_expect(own, 1, AMQP_BASIC_CONSUME_OK_METHOD);
    publish_many(own, "~%u", "stuck", 2);
    world_pass(7000);
    assert_int_equal(disk_count(false), 2);
    broker.is_there = false;
    broker.close_code = 406;
    world_end_stream(shared_stream(), UV_ECONNRESET);
    for (unsigned i = 0; i < 3; i++)
        peer_publish_to(shared, 1, "x", "k", "!bad", false);
    publish_many(shared, "%u", "fine", 150); /* behind which more than one goes at a time again */
    publish_many(shared, "~later %u", "stuck", 18);
    peer_publish_to(shared, 1, "x", "k", "!bad", false);
    publish_many(shared, "last %u", "fine", 5);
    expect_acked_up_to(shared, 177);
    broker.is_there = true;
    world_pass(60000);
    assert_int_equal(disk_count(true), 4);
    assert_int_equal(disk_count(false), 20);
    assert_int_equal(world_queue()->backlog.drained, 155);
    for (unsigned i = 0; i < 100; i++) {
        broker_confirm_all();
        world_pass(250);
    }
    assert_int_equal(disk_count(false), 0);
    peer_die(own);
    peer_close(shared);
}

/* ---- destinations that are aside ---- */

/* RabbitMQ would end the connection over it: in the header CC is an asker who is gone. */
static void publish_wild(struct peer *p, const char *key, const char *body)
{
    enum { HAS_HEADERS = 0x2000 };
    static const char cc[] = "\0\0\0\x23\2CCA\0\0\0\x1bS\0\0\0\x16"
                             "amq.rabbitmq.reply-to.";
    peer_publish_with(p, 1, key, body, HAS_HEADERS, cc, sizeof cc - 1, false);
}

/* Nothing of it is under way, so what follows has its turn. */
static void test_what_is_rejected_unsent_holds_up_no_destination(void **state)
{
    (void)state;
    struct peer *p = begin("drain.window=1", NULL);
    broker_down();
    peer_publish(p, 1, "q", "one");
    publish_wild(p, "q", "wild");
    peer_publish(p, 1, "q", "two");
    peer_publish(p, 1, "another", "behind"); /* up to which all is read */
    expect_acked_up_to(p, 4);
    broker.confirms = BROKER_NACKS;
    broker_up();
    world_pass(3000);
    assert_true(world_queue()->backlog.asides.count > 0);
    broker.confirms = BROKER_ACKS;
    world_pass(60000);
    assert_int_equal(times_published("wild"), 0);
    assert_int_equal(times_published("two"), 1);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(disk_count(true), 1);
    assert_null(world_queue()->backlog.drain);
    peer_close(p);
}

/* It has failed, and then it is gone, or too large for the frames of the broker that comes next. */
static void test_a_failing_message_that_is_no_more_holds_up_no_destination(void **state)
{
    (void)state;
    for (unsigned variant = 0; variant < 4; variant++) {
        struct peer *p = begin("drain.nack_limit=1000", NULL);
        uint64_t seq = 1 + variant % 2; /* the last, too, up to which nothing is read */
        store(p, 2);
        broker.confirms = BROKER_NACKS;
        broker_up();
        world_pass(3000);
        assert_int_equal(world_queue()->backlog.asides.count, 2);
        broker_cut();
        if (variant < 2)
            disk_lose(seq);
        else
            disk.frames_too_large = seq;
        broker.confirms = BROKER_ACKS;
        world_pass(60000);
        assert_null(world_queue()->backlog.drain);
        assert_int_equal(disk_count(false), 0);
        peer_close(p);
        if (variant < 2) /* it was taken for damaged */
            world_queue()->backlog.damaged--;
        disk.frames_too_large = 0;
        assert_int_equal(world_teardown(NULL), 0);
    }
    world_begin(NULL);
}

/* RabbitMQ has read what it does not confirm, and refuses something else. */
static void test_a_refused_message_beside_a_silent_destination(void **state)
{
    (void)state;
    struct peer *p = begin("pool.confirm_timeout=1s", NULL);
    broker.close_code = 406;
    broker_down();
    peer_publish(p, 1, "stuck", "~stuck");
    expect_acked_up_to(p, 1);
    broker_up();
    world_pass(10000);
    assert_int_equal(world_queue()->backlog.asides.count, 1);
    peer_publish_to(p, 1, "x", "k", "!bad", false);
    peer_publish(p, 1, "fine", "fine");
    expect_acked_up_to(p, 3);
    world_pass(60000);
    assert_int_equal(disk_count(true), 1);
    assert_int_equal(disk_count(false), 1);
    assert_int_equal(times_published("fine") > 0, 1);
    for (unsigned i = 0; i < 100; i++) {
        broker_confirm_all();
        world_pass(250);
    }
    peer_close(p);
}

/* What it has answered of a silent destination says nothing of the rest. */
static void test_a_silent_destination_that_answers_in_part(void **state)
{
    (void)state;
    static const amqp_basic_ack_t ack = {.delivery_tag = 2};
    static const amqp_basic_nack_t nack = {.delivery_tag = 2};
    for (unsigned i = 0; i < 2; i++) {
        struct peer *p = begin("pool.confirm_timeout=1s", NULL);
        broker_down();
        publish_many(p, "~%u", "stuck", 3);
        expect_acked_up_to(p, 3);
        broker_up();
        world_pass(5000);
        assert_int_equal(world_queue()->backlog.asides.count, 1);
        assert_int_equal(broker.published, 3);
        if (i == 0)
            broker_say(1, AMQP_BASIC_ACK_METHOD, &ack);
        else
            broker_say(1, AMQP_BASIC_NACK_METHOD, &nack);
        for (unsigned k = 0; k < 120; k++) {
            world_pass(250);
            if (k > 60)
                broker_confirm_all(); /* of what was sent again */
        }
        assert_int_equal(disk_count(false), 0);
        assert_true(times_published("~0") > 1);
        peer_close(p);
        assert_int_equal(world_teardown(NULL), 0);
    }
    world_begin(NULL);
}

/* What was read of its messages, and not sent for want of room, is read again on the next one. */
static void test_a_destination_apart_that_was_read_and_not_sent(void **state)
{
    (void)state;
    char large[901] = {0};
    memset(large, 'l', sizeof large - 1);
    struct peer *p = begin("pool.confirm_timeout=1s", "pool.window_bytes=1KiB");
    broker_down();
    peer_publish(p, 1, "a", "small");
    peer_publish(p, 1, "a", large);
    expect_acked_up_to(p, 2);
    broker.confirms = BROKER_SILENT;
    broker_up();
    world_pass(5000);
    assert_int_equal(world_queue()->backlog.asides.count, 1);
    peer_publish(p, 1, "x", "~of another, which takes room, and is not confirmed either");
    expect_acked_up_to(p, 3);
    broker.confirms = BROKER_ACKS;
    broker.published = 0;
    broker_cut();
    world_pass(600);
    assert_int_equal(disk_count(false),
                     2); /* "small" has gone, and there is no room for the next */
    assert_int_equal(broker.published, 2);
    broker_cut();
    world_pass(30000);
    assert_true(disk_count(false) <= 1);
    for (unsigned i = 0; i < 40; i++) {
        broker_confirm_all();
        world_pass(250);
    }
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(world_queue()->backlog.drained, 3);
    peer_close(p);
}

/* As RabbitMQ 3.10 is at a quorum queue without a leader. What is behind goes on on another one. */
static void test_a_channel_that_is_stuck_is_left(void **state)
{
    (void)state;
    struct peer *p = begin("pool.confirm_timeout=1s", "drain.window=4");
    broker_down();
    publish_many(p, "@%u", "stuck", 2);
    publish_many(p, "%u", "fine", 20);
    declare(p, "declared");
    peer_publish(p, 1, "another", "last");
    unsigned acked = 0;
    while (acked < 23) {
        struct frame frame;
        uint32_t method = peer_read(p, &frame);
        if (method == AMQP_BASIC_ACK_METHOD)
            acked = (unsigned)wire_get64(frame.payload + 4);
        else
            assert_int_equal(method, AMQP_QUEUE_DECLARE_OK_METHOD);
    }
    broker_up();
    world_pass(15000);
    assert_int_equal(disk_count(false), 2);
    assert_int_equal(times_published("last"), 1);
    assert_int_equal(world_queue()->backlog.left, 2); /* of the second it is known at what */
    for (unsigned i = 0; i < 20; i++) {
        char body[16];
        snprintf(body, sizeof body, "%u", i);
        assert_string_equal(broker.bodies[i], body);
    }
    for (unsigned i = 0; i < 6; i++) { /* tried again, and stuck each time */
        peer_publish(p, 1, "fine", "later");
        world_pass(15000);
        assert_int_equal(times_published("later"), i + 1);
    }
    assert_true(world_queue()->backlog.left > 1);
    assert_int_equal(disk_count(false), 2);
    broker_close_stuck();
    assert_int_equal(world_queue()->backlog.left, 0);
    broker_cut();
    peer_die(p);
}

static bool is_gone_after_its_goodbye(struct peer *p)
{
    broker.is_frozen = true; /* and answers no more */
    world.rt.serves = false;
    if (world_queue()->backlog.drain)
        drain_stop(world_queue()->backlog.drain);
    upstream_close(LIST_ENTRY(world.upstreams.all.next, struct upstream, node));
    world_pass(400);
    bool is_gone = list_empty(&world.upstreams.all);
    world_pass(6000);
    assert_true(list_empty(&world.upstreams.all));
    broker.is_frozen = false;
    peer_die(p);
    return is_gone;
}

/* RabbitMQ closes a connection's channels before it answers its close. */
static void test_no_goodbye_is_waited_for_behind_a_stuck_channel(void **state)
{
    (void)state;
    struct peer *p = begin("pool.confirm_timeout=1s", "drain.window=4");
    assert_false(is_gone_after_its_goodbye(p));
    assert_int_equal(world_teardown(NULL), 0);
    p = begin("pool.confirm_timeout=1s", "drain.window=4");
    broker_down();
    publish_many(p, "@%u", "stuck", 2);
    publish_many(p, "%u", "fine", 4);
    broker_up();
    world_pass(15000);
    assert_true(world_queue()->backlog.left > 0);
    assert_true(is_gone_after_its_goodbye(p));
    assert_int_equal(world_queue()->backlog.left, 0);
}

/* Each is found with a channel of its own, and takes no other with it. */
static void test_many_that_are_stuck(void **state)
{
    (void)state;
    struct peer *p = begin("pool.confirm_timeout=1s", NULL);
    spool_one_each(p, '@', 7);
    peer_publish(p, 1, "fine", "fine");
    expect_acked_up_to(p, 8);
    broker_up();
    world_pass(20000);
    assert_int_equal(times_published("fine"), 1);
    assert_int_equal(disk_count(false), 7);
    broker_cut();
    peer_die(p);
}

/* So many that what is fine would wait for a quarter of an hour, if each took ten seconds. */
static void test_a_hundred_that_are_stuck(void **state)
{
    (void)state;
    enum { STUCK = 100 };
    struct peer *p = begin("pool.confirm_timeout=30s", NULL);
    spool_one_each(p, '@', STUCK);
    peer_publish(p, 1, "fine", "fine");
    expect_acked_up_to(p, STUCK + 1);
    broker_up();
    for (unsigned minutes = 0; minutes < 7; minutes++) {
        world_pass(60000);
        broker_close_stuck();
    }
    assert_int_equal(times_published("fine"), 1);
    assert_int_equal(disk_count(false), STUCK);
    broker_cut();
    peer_die(p);
}

/* RabbitMQ answers the close of a stuck channel within a minute. Returns how many were left. */
static unsigned pass_a_minute(void)
{
    world_pass(60000);
    unsigned left = world_queue()->backlog.left;
    broker_close_stuck();
    return left;
}

/* What they are tried with again holds all others up for a moment: the more there are, the more
 * seldom each of them is. */
static void test_others_go_on_between_many_that_are_stuck(void **state)
{
    (void)state;
    enum { STUCK = 40 };
    struct peer *p = begin("pool.confirm_timeout=30s", NULL);
    char body[16];
    spool_one_each(p, '@', STUCK);
    broker_up();
    for (unsigned i = 0; i < 10; i++)
        pass_a_minute();
    assert_int_equal(world_queue()->backlog.asides.count, STUCK);
    for (unsigned i = 0; i < 20; i++) {
        snprintf(body, sizeof body, "fine %u", i);
        peer_publish(p, 1, "fine", body);
        assert_in_range(pass_a_minute(), 0, 2);
        assert_int_equal(times_published(body), 1);
        assert_int_equal(disk_count(false), STUCK);
    }
    broker_cut();
    peer_die(p);
}

/* That is no stuck channel: what RabbitMQ has is not sent again, and nothing waits for longer. */
static void test_a_frozen_rabbitmq_is_waited_for(void **state)
{
    (void)state;
    static const unsigned frozen_ms[] = {18000, 30000};
    for (unsigned i = 0; i < 2; i++) {
        struct peer *p = begin("pool.confirm_timeout=10s", NULL);
        store(p, 6);
        broker.confirms = BROKER_SILENT;
        broker_up();
        world_pass(2000);
        assert_int_equal(broker.published, 6);
        broker.is_frozen = true;
        world_pass(frozen_ms[i]);
        broker.is_frozen = false;
        broker.confirms = BROKER_ACKS;
        broker_confirm_all();
        world_pass(5000);
        assert_int_equal(disk_count(false), 0);
        assert_int_equal(world_queue()->backlog.left, 0);
        assert_int_equal(world_queue()->backlog.asides.count, 0);
        assert_int_equal(broker.published, i == 0 ? 6 : 12);
        peer_close(p);
        assert_int_equal(world_teardown(NULL), 0);
    }
    world_begin(NULL);
}

/* A part of what is to be sent goes out now and then. */
static void pass_on_a_slow_line(unsigned seconds)
{
    broker.is_frozen = true;
    world_set_full(broker_last_stream(), true);
    for (unsigned i = 0; i < seconds; i++) {
        world_pass(1000);
        assert_non_null(world_queue()->backlog.drain);
        broker_last_stream()->last_write_ms = world.now_ms;
    }
    broker.is_frozen = false;
    world_set_full(broker_last_stream(), false);
}

static void test_an_answer_over_a_slow_line_is_waited_for(void **state)
{
    (void)state;
    static const uint8_t opened[64];
    struct peer *p = begin("pool.confirm_timeout=10s", NULL);
    store(p, 6);
    broker.silent_on = AMQP_CHANNEL_OPEN_METHOD;
    broker_up();
    world_pass(2000);
    unsigned connections = broker.connections;
    pass_on_a_slow_line(40);
    broker.silent_on = 0;
    broker_say(1, AMQP_CHANNEL_OPEN_OK_METHOD, opened);
    world_pass(5000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(broker.connections, connections);
    peer_close(p);
}

/* What is asked stands behind what takes its time: RabbitMQ reads, and is not stuck. */
static void test_a_slow_line_is_waited_for(void **state)
{
    (void)state;
    struct peer *p = begin("pool.confirm_timeout=10s", NULL);
    store(p, 6);
    broker.confirms = BROKER_SILENT;
    broker_up();
    world_pass(2000);
    unsigned connections = broker.connections;
    pass_on_a_slow_line(40);
    broker.confirms = BROKER_ACKS;
    broker_confirm_all();
    world_pass(5000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(broker.published, 6);
    assert_int_equal(broker.connections, connections);
    peer_close(p);
}

/* It answers what is asked of it: its queues are silent, and late confirms are waited for there. */
static void test_a_channel_with_silent_queues_is_kept(void **state)
{
    (void)state;
    struct peer *p = begin("pool.confirm_timeout=1s", NULL);
    store(p, 60);
    broker.confirms = BROKER_SILENT;
    broker_up();
    world_pass(8000);
    assert_int_equal(world_queue()->backlog.asides.count, 60);
    assert_int_equal(world_queue()->backlog.left, 0);
    broker.confirms = BROKER_ACKS;
    broker_confirm_all();
    world_pass(60000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(broker.published, 60);
    peer_close(p);
}

/* The next drain asks for no confirms, and what is aside has its turn all the same. */
static void test_what_is_aside_without_confirms(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    store(p, 3);
    broker.confirms = BROKER_NACKS;
    broker_up();
    world_pass(4000);
    assert_int_equal(world_queue()->backlog.asides.count, 3);
    broker_down();
    world.config.drain.confirms = CONFIRMS_OFF;
    broker.confirms = BROKER_ACKS;
    broker_up();
    world_pass(60000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(disk_count(true), 0);
    assert_null(world_queue()->backlog.drain);
    peer_close(p);
}

/* RabbitMQ reads nothing as long as it lasts, and has time to answer behind it. */
static void test_an_alarm_puts_a_question_off(void **state)
{
    (void)state;
    static const uint8_t unblocked[64];
    amqp_connection_blocked_t blocked = {.reason = bytes_of("low on memory")};
    struct peer *p = begin("pool.confirm_timeout=30s", NULL);
    store(p, 2);
    world_queue()->backlog.stuck_ms = world.now_ms; /* so it is asked soon */
    broker.confirms = BROKER_SILENT;
    broker_up();
    world_pass(2000);
    unsigned connections = broker.connections;
    broker.is_frozen = true;
    peer_publish(p, 1, "another", "another");
    world_pass(8000);
    broker_say(0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
    world_pass(25000);
    expect_acked_up_to(p, 3);
    broker_say(0, AMQP_CONNECTION_UNBLOCKED_METHOD, unblocked);
    world_pass(10000);
    broker.is_frozen = false;
    broker.confirms = BROKER_ACKS;
    broker_confirm_all();
    world_pass(5000);
    assert_int_equal(broker.connections, connections);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(broker.published, 3);
    peer_close(p);
}

/* It is about the connection, and says nothing of a destination. */
static void test_an_alarm_sets_no_destination_aside(void **state)
{
    (void)state;
    amqp_connection_blocked_t blocked = {.reason = bytes_of("low on memory")};
    struct peer *p = begin("pool.confirm_timeout=1s", "drain.window=4");
    store(p, 20);
    broker.confirms = BROKER_SILENT;
    broker_up();
    world_pass(600);
    broker_say(0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
    world_pass(20000);
    assert_int_equal(broker.published, 4);
    assert_int_equal(world_queue()->backlog.asides.count, 0);
    broker_say(0, AMQP_CONNECTION_UNBLOCKED_METHOD, &blocked);
    world_pass(500);
    assert_int_equal(world_queue()->backlog.asides.count, 0);
    broker.confirms = BROKER_ACKS;
    broker_confirm_all();
    world_pass(5000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(broker.published, 20);
    peer_close(p);
}

/* Nothing of RabbitMQ is still to start: what has no route then is not waited for. */
static void test_the_end_of_an_alarm_is_no_return(void **state)
{
    (void)state;
    amqp_connection_blocked_t blocked = {.reason = bytes_of("low on memory")};
    struct peer *p = begin("drain.unroutable_wait=60s", "upstream.heartbeat=0");
    peer_publish(p, 1, "q", "one");
    expect_acked_up_to(p, 1);
    world_pass(61000);
    broker_say(0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
    peer_publish(p, 1, "nowhere", "two");
    expect_acked_up_to(p, 2);
    broker.returns = true;
    broker_say(0, AMQP_CONNECTION_UNBLOCKED_METHOD, &(amqp_connection_unblocked_t){0});
    world_pass(2000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(world.rt.counters.unroutable, 1);
    peer_close(p);
}

/* ---- what ends connections ---- */

/* Each is ended by what waits: the next one waits as any other would. */
static void test_connections_for_a_drain_alone_wait_for_each_other(void **state)
{
    (void)state;
    struct peer *p = begin("upstream.reconnect_min=10s", "upstream.reconnect_max=10s");
    broker_down();
    static const char *const bodies[] = {"a", "?poison", "b"};
    for (unsigned i = 0; i < 3; i++)
        peer_publish(p, 1, "q", bodies[i]);
    expect_acked_up_to(p, 3);
    broker_up();
    for (unsigned i = 0; i < 400 && broker.connections < 4; i++)
        world_pass(250); /* for all; lost over it; for all again, and one for the drain */
    world_pass(1000);
    unsigned before = broker.connections;
    world_pass(8000);
    assert_true(broker.connections <= before + 1);
    world_pass(300000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(disk_count(true), 1);
    assert_int_equal(times_published("b") > 0, 1);
    peer_close(p);
}

/* It may have been over what a client has sent there: what waits is judged alone. */
static void test_a_shared_connection_that_ends_accuses_nothing_that_waits(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    broker_down();
    declare(p, "stored");
    peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
    broker.silent_calls = true;
    broker_up();
    world_pass(1000);
    struct peer *another = peer_login();
    peer_open_channel(another, 1);
    declare(another, "live");
    world_run();
    assert_int_equal(broker_heard("queue.declare"), 2);
    broker.silent_calls = false;
    amqp_connection_close_t close = {.reply_code = 540,
                                     .reply_text = bytes_of("NOT_IMPLEMENTED - scripted"),
                                     .class_id = 50,
                                     .method_id = 10};
    broker_say(0, AMQP_CONNECTION_CLOSE_METHOD, &close);
    world_pass(10000);
    assert_int_equal(disk_count(true), 0);
    assert_int_equal(disk_count(false), 0);
    peer_die(another);
    peer_close(p);
}

/* The shared one is not closed as idle while a drain has one of its own. */
static void test_a_shared_connection_stays_beside_that_of_a_drain(void **state)
{
    (void)state;
    struct peer *p = begin("pool.idle_timeout=1s", NULL);
    world_queue()->backlog.alone = true;
    store(p, 1);
    broker.confirms = BROKER_SILENT;
    broker_up();
    struct pool *pool = LIST_ENTRY(world.pools.all.next, struct pool, node);
    for (unsigned i = 0; i < 20; i++) {
        world_pass(1000);
        connections_close_idle(pool, world.now_ms);
    }
    assert_int_equal(connections_open_count(pool), 1);
    broker_confirm_all();
    world_pass(60000);
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
}

static bool has_one_for_a_drain(const struct pool *pool)
{
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = n->next)
        if (LIST_ENTRY(n, struct upstream, owner_node)->use == UPSTREAM_FOR_DRAIN)
            return true;
    return false;
}

/* While it was being dialled RabbitMQ has confirmed what it was to carry. */
static void test_a_connection_for_a_drain_that_is_not_needed_is_closed(void **state)
{
    (void)state;
    struct peer *p = begin("upstream.heartbeat=0", NULL);
    struct pool *pool = LIST_ENTRY(world.pools.all.next, struct pool, node);
    broker.confirms = BROKER_SILENT;
    broker.is_slow_to_accept = true;
    peer_publish(p, 1, "q", "late");
    peer_publish(p, 1, "r", "later");
    world_queue()->backlog.alone = true;
    world_pass(world.config.pool.confirm_timeout_ms + 1000);
    expect_acked_up_to(p, 2);
    assert_int_equal(disk_count(false), 2);
    broker_say(1, AMQP_BASIC_ACK_METHOD, &(amqp_basic_ack_t){.delivery_tag = 1});
    assert_true(has_one_for_a_drain(pool)); /* what followed the first one may wait */
    broker_say(1, AMQP_BASIC_ACK_METHOD, &(amqp_basic_ack_t){.delivery_tag = 2});
    assert_int_equal(disk_count(false), 0);
    broker.is_slow_to_accept = false;
    world_pass(1000);
    assert_true(has_one_for_a_drain(pool));
    connections_close_idle(pool, world.now_ms);
    assert_false(has_one_for_a_drain(pool));
    assert_int_equal(connections_open_count(pool), 1);
    assert_int_equal(broker.published, 2);
    peer_close(p);
}

/* ---- out of the spool ---- */

/* Of drains that have ended before their deletes came back. */
static void test_what_is_deleted_late_is_counted(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    store(p, 3);
    broker.confirms = BROKER_SILENT;
    broker_up();
    world_pass(20000);
    assert_int_equal(broker.published, 3);
    disk.hangs = true;
    broker_confirm_all();
    broker_down();
    assert_null(world_queue()->backlog.drain);
    disk.hangs = false;
    world_run();
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(world_queue()->backlog.waiting, 0);
    assert_int_equal(world_queue()->backlog.drained, 3);
    peer_close(p);
}

static void test_a_drain_gets_nothing_that_the_disk_has_refused(void **state)
{
    (void)state;
    struct peer *p = begin("spool.mode=always", NULL), *other = peer_login();
    peer_publish(p, 1, "q", "one");
    expect_acked_up_to(p, 1);
    peer_open_confirming(other, 1);
    disk.is_full = true;
    peer_publish(p, 1, "q", "refused");
    expect_refused(p, 506);
    disk.is_full = false;
    peer_publish(other, 1, "q", "two");
    expect_acked_up_to(other, 1);
    world_pass(2000);
    assert_int_equal(times_published("refused"), 0);
    assert_int_equal(times_published("two"), 1);
    assert_int_equal(disk_count(false), 0);
    peer_close(other);
}

/* An append that was nacked is not under way any more, and its place is free. */
static void test_appends_that_fail_leave_nothing_behind(void **state)
{
    (void)state;
    struct peer *p = begin("spool.overflow=reject", NULL);
    broker_down();
    disk.is_full = true;
    for (unsigned i = 0; i < 3; i++) {
        peer_publish(p, 1, "q", "one");
        peer_expect(p, 1, AMQP_BASIC_NACK_METHOD);
    }
    assert_int_equal(world_queue()->appending, 0);
    disk.is_full = false;
    peer_publish(p, 1, "q", "two");
    const amqp_basic_ack_t *ack = peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    assert_int_equal(ack->delivery_tag, 4);
    peer_close(p); /* waits for nothing */
}

static void test_a_queue_that_cannot_be_read_is_read_later(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    store(p, 3);
    unsigned before = broker.connections;
    disk.reads_fail = true;
    broker_up();
    world_pass(20000);
    assert_int_equal(broker.connections, before + 1);
    assert_int_equal(broker.published, 0);
    disk.reads_fail = false;
    world_pass(1000);
    assert_int_equal(broker.published, 3);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(broker.connections, before + 1);
    peer_close(p);
}

/* It is the disk's failure: the connection that all share has no part in it, and RabbitMQ is not
 * asked about the message once more. */
static void test_what_cannot_be_rejected_is_rejected_later(void **state)
{
    (void)state;
    struct peer *p = begin("drain.nack_limit=1", NULL);
    store(p, 3);
    unsigned before = broker.connections;
    disk.rejects_fail = true;
    broker.confirms = BROKER_NACKS;
    broker_up();
    world_pass(20000);
    assert_int_equal(broker.published, 3);
    assert_int_equal(disk_count(true), 0);
    disk.rejects_fail = false;
    world_pass(1000);
    assert_int_equal(disk_count(true), 3);
    assert_int_equal(world_queue()->backlog.rejected, 3);
    assert_int_equal(world_queue()->backlog.waiting, 0);
    assert_int_equal(broker.published, 3);
    assert_int_equal(broker.connections, before + 1);
    peer_close(p);
}

/* ---- the rejected list ---- */

/* What goes beyond its bound leaves it; all of it when the spool is nearly full. */
static void test_the_rejected_list_has_a_bound(void **state)
{
    (void)state;
    for (unsigned full = 0; full < 2; full++) {
        struct peer *p = begin("pool.rejected_size=2", "pool.rejected_overflow=drop");
        broker.close_code = 406;
        broker_down();
        for (unsigned i = 0; i < 4; i++)
            peer_publish_to(p, 1, "x", "q", "!bad", false);
        expect_acked_up_to(p, 4);
        broker_up();
        world_pass(60000);
        assert_int_equal(disk_count(true), 2);
        disk.is_nearly_full = full;
        world_pass(1000);
        assert_int_equal(disk_count(true), full ? 0 : 2);
        assert_int_equal(world_queue()->backlog.rejected, full ? 0 : 2);
        assert_int_equal(world.rt.counters.rejected_dropped, full ? 4 : 2);
        peer_close(p);
        assert_int_equal(world_teardown(NULL), 0);
    }
    world_begin(NULL);
}

/* Nobody hears of them any more: they are rejected, and what goes elsewhere is drained. */
static void test_publishes_to_a_missing_exchange_are_rejected_together(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    broker.confirms = BROKER_SILENT;
    peer_publish_to(p, 1, "x", "q", "bad", false);
    peer_publish_to(p, 1, "x", "another", "bad", false);
    peer_publish_to(p, 1, "y", "q", "good", false);
    world_run();
    peer_die(p);
    amqp_channel_close_t close = {.reply_code = 404,
                                  .reply_text =
                                      bytes_of("NOT_FOUND - no exchange 'x' in vhost '/'"),
                                  .class_id = 60,
                                  .method_id = 40};
    broker.confirms = BROKER_ACKS;
    broker_say(1, AMQP_CHANNEL_CLOSE_METHOD, &close);
    assert_int_equal(disk_count(true), 2);
    world_pass(30000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(times_published("good"), 2);
    assert_int_equal(times_published("bad"), 2);
}

int main(void)
{
#define ALONE(test) cmocka_unit_test_setup_teardown(test, quiet, world_teardown)
    const struct CMUnitTest tests[] = {
        ALONE(test_the_drain_tries_again_on_another_channel),
        ALONE(test_a_publisher_leaves_such_a_channel),
        ALONE(test_what_stays_in_the_spool_is_sent_once),
        ALONE(test_what_is_refused_and_stays_is_sent_once),
        ALONE(test_many_silent_destinations_and_a_lost_connection),
        ALONE(test_many_silent_destinations_hold_nobody_up),
        ALONE(test_a_drain_does_not_wait_for_its_channel_for_ever),
        ALONE(test_refusals_in_a_backlog_beside_what_is_in_doubt),
        ALONE(test_what_is_rejected_unsent_holds_up_no_destination),
        ALONE(test_a_failing_message_that_is_no_more_holds_up_no_destination),
        ALONE(test_a_refused_message_beside_a_silent_destination),
        ALONE(test_a_silent_destination_that_answers_in_part),
        ALONE(test_a_destination_apart_that_was_read_and_not_sent),
        ALONE(test_a_channel_that_is_stuck_is_left),
        ALONE(test_no_goodbye_is_waited_for_behind_a_stuck_channel),
        ALONE(test_many_that_are_stuck),
        ALONE(test_a_hundred_that_are_stuck),
        ALONE(test_others_go_on_between_many_that_are_stuck),
        ALONE(test_a_frozen_rabbitmq_is_waited_for),
        ALONE(test_an_answer_over_a_slow_line_is_waited_for),
        ALONE(test_a_slow_line_is_waited_for),
        ALONE(test_a_channel_with_silent_queues_is_kept),
        ALONE(test_what_is_aside_without_confirms),
        ALONE(test_an_alarm_puts_a_question_off),
        ALONE(test_an_alarm_sets_no_destination_aside),
        ALONE(test_the_end_of_an_alarm_is_no_return),
        ALONE(test_connections_for_a_drain_alone_wait_for_each_other),
        ALONE(test_a_connection_for_a_drain_that_is_not_needed_is_closed),
        ALONE(test_a_shared_connection_that_ends_accuses_nothing_that_waits),
        ALONE(test_a_shared_connection_stays_beside_that_of_a_drain),
        ALONE(test_what_is_deleted_late_is_counted),
        ALONE(test_a_drain_gets_nothing_that_the_disk_has_refused),
        ALONE(test_appends_that_fail_leave_nothing_behind),
        ALONE(test_a_queue_that_cannot_be_read_is_read_later),
        ALONE(test_what_cannot_be_rejected_is_rejected_later),
        ALONE(test_the_rejected_list_has_a_bound),
        ALONE(test_publishes_to_a_missing_exchange_are_rejected_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
