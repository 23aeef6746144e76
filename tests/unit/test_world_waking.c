/* Who is held is woken by what it waits for: no tick of the loop looks after it in these tests. */

#include <stdio.h>
#include <string.h>

#include "../world/world.h"
#include "base/log.h"

static int quiet(void **state)
{
    (void)state;
    log_init(LOG_ERROR, LOG_LOGFMT);
    return 0;
}

static void publish_numbered(struct peer *p, const char *form, unsigned first, unsigned count)
{
    char body[16];
    for (unsigned i = first; i < first + count; i++) {
        snprintf(body, sizeof body, form, i);
        peer_publish(p, 1, body, body); /* each to a destination of its own */
    }
}

static void expect_acked_up_to(struct peer *p, uint64_t tag)
{
    uint64_t acked = 0;
    while (acked < tag)
        acked = ((const amqp_basic_ack_t *)peer_expect(p, 1, AMQP_BASIC_ACK_METHOD))->delivery_tag;
    assert_int_equal(acked, tag);
}

static void expect_count(unsigned published)
{
    world_run();
    assert_int_equal(broker.published, published);
}

static void test_a_confirm_opens_the_window_to_all(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=0", "pool.window=2", "drain.window=2",
                                 "pool.upstreams=1", NULL});
    struct peer *p = peer_confirming(), *other = peer_confirming();
    broker.confirms = BROKER_SILENT;
    for (unsigned i = 0; i < 4; i++)
        peer_publish(p, 1, "q", "one");
    expect_count(2);
    peer_publish(other, 1, "q", "another client's");
    expect_count(2);
    broker_confirm_all();
    assert_int_equal(broker.published, 4);
    broker_confirm_all();
    assert_int_equal(broker.published, 5);
    broker_confirm_all();
    expect_acked_up_to(p, 4);
    expect_acked_up_to(other, 1);
    peer_close(p);
    peer_close(other);
}

/* What must not overtake the reply to a method. */
static void test_a_reply_lets_what_is_behind_it_go_on(void **state)
{
    (void)state;
    static const struct {
        amqp_method_number_t method, answer;
    } all[] = {
        {AMQP_CONFIRM_SELECT_METHOD, AMQP_CONFIRM_SELECT_OK_METHOD},
        {AMQP_TX_SELECT_METHOD, AMQP_TX_SELECT_OK_METHOD},
        {AMQP_BASIC_CONSUME_METHOD, AMQP_BASIC_CONSUME_OK_METHOD},
        {AMQP_CHANNEL_CLOSE_METHOD, AMQP_CHANNEL_CLOSE_OK_METHOD},
    };
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        world_begin((const char *[]){"pool.publish_buffer_size=0", NULL});
        struct peer *p = peer_login();
        peer_open_channel(p, 1);
        broker.silent_calls = true;
        amqp_queue_declare_t declare = {.queue = bytes_of("q"), .durable = 1};
        peer_send_method(p, 1, AMQP_QUEUE_DECLARE_METHOD, &declare);
        peer_send_plain(p, 1, all[i].method);
        peer_expect_nothing(p);
        broker.silent_calls = false;
        amqp_queue_declare_ok_t ok = {.queue = bytes_of("q")};
        broker_say(1, AMQP_QUEUE_DECLARE_OK_METHOD, &ok);
        peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
        peer_expect(p, 1, all[i].answer);
        peer_close(p);
        assert_int_equal(world_teardown(NULL), 0);
    }
    world_begin(NULL);
}

/* ---- places in a full buffer ---- */

static struct peer *begin_full(const char *size)
{
    world_begin((const char *[]){"spool.mode=always", "spool.overflow=block", size, NULL});
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    return p;
}

static void test_a_drain_that_deletes_makes_places(void **state)
{
    (void)state;
    struct peer *p = begin_full("pool.publish_buffer_size=3");
    broker.confirms = BROKER_SILENT;
    publish_numbered(p, "%u", 0, 5);
    expect_count(3);
    assert_int_equal(disk_count(false), 3);
    broker_confirm_all();
    assert_int_equal(broker.published, 5);
    assert_int_equal(disk_count(false), 2);
    broker_confirm_all();
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
}

static void test_a_rejection_makes_a_place(void **state)
{
    (void)state;
    struct peer *p = begin_full("pool.publish_buffer_size=1");
    peer_publish_to(p, 1, "x", "q", "!bad", false);
    peer_publish(p, 1, "q", "good");
    expect_count(1);
    assert_int_equal(disk_count(true), 1);
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
}

static void test_a_confirm_of_what_is_in_doubt_makes_a_place(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=2", "spool.overflow=block", NULL});
    struct peer *p = peer_confirming();
    peer_publish(p, 1, "a", "~one");
    peer_publish(p, 1, "b", "~two");
    world_pass(world.config.pool.confirm_timeout_ms + 1000);
    assert_int_equal(disk_count(false), 2);
    expect_acked_up_to(p, 2);
    peer_publish(p, 1, "c", "three");
    expect_count(2);
    broker_confirm_all();
    assert_int_equal(broker.published, 3);
    assert_int_equal(disk_count(false), 0);
    expect_acked_up_to(p, 3);
    peer_close(p);
}

static void test_a_rollback_gives_its_places_back(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=2", "spool.overflow=block", NULL});
    struct peer *p = peer_login(), *other = peer_confirming();
    peer_open_channel(p, 1);
    peer_send_plain(p, 1, AMQP_TX_SELECT_METHOD);
    peer_expect(p, 1, AMQP_TX_SELECT_OK_METHOD);
    broker_down();
    publish_numbered(p, "%u", 0, 2);
    peer_publish(other, 1, "q", "waits");
    peer_expect_nothing(other);
    peer_send_plain(p, 1, AMQP_TX_ROLLBACK_METHOD);
    peer_expect(p, 1, AMQP_TX_ROLLBACK_OK_METHOD);
    expect_acked_up_to(other, 1);
    assert_int_equal(disk_count(false), 1);
    assert_int_equal(world_queue()->reserved, 0);
    peer_close(p);
    peer_close(other);
}

static void test_who_goes_away_gives_its_places_back(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=2", "spool.overflow=block", NULL});
    struct peer *p = peer_login(), *other = peer_confirming();
    peer_open_channel(p, 1);
    peer_send_plain(p, 1, AMQP_TX_SELECT_METHOD);
    peer_expect(p, 1, AMQP_TX_SELECT_OK_METHOD);
    broker_down();
    publish_numbered(p, "%u", 0, 2);
    peer_publish(other, 1, "q", "waits");
    peer_expect_nothing(other);
    peer_die(p);
    expect_acked_up_to(other, 1);
    assert_int_equal(disk_count(false), 1);
    peer_close(other);
}

/* ---- two connections ---- */

static unsigned came_on(unsigned connection)
{
    unsigned count = 0;
    for (unsigned i = 0; i < broker.published; i++)
        count += broker.origins[i] == connection;
    return count;
}

/* The window is full of what RabbitMQ does not confirm; who has nothing under way goes on at once
 * on another connection, also when that opens later than it begins to wait. */
static void test_a_connection_that_opens_later_takes_who_waits(void **state)
{
    (void)state;
    for (unsigned late = 0; late < 2; late++) {
        world_begin((const char *[]){"pool.publish_buffer_size=1000", "pool.upstreams=2",
                                     "pool.window=8", "pool.confirm_timeout=1h", NULL});
        struct peer *other = peer_confirming(), *p = peer_confirming();
        peer_publish(other, 1, "alive", "bound");
        expect_acked_up_to(other, 1);
        broker.is_slow_to_accept = late;
        publish_numbered(p, "~%u", 0, 16);
        world_run();
        unsigned before = broker.published;
        peer_publish(other, 1, "alive", "now");
        expect_count(before + !late);
        broker.is_slow_to_accept = false;
        expect_acked_up_to(other, 2);
        assert_int_equal(broker.published, before + 1);
        assert_string_equal(broker.bodies[before], "now");
        assert_int_equal(came_on(2), 1);
        assert_int_equal(broker.origins[before], 2);
        peer_die(p);
        peer_die(other);
        broker_confirm_all();
        assert_int_equal(world_teardown(NULL), 0);
    }
    world_begin(NULL);
}

/* Its earlier ones could arrive after its later ones. */
static void test_who_has_something_under_way_stays_until_it_is_confirmed(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=1000", "pool.upstreams=2",
                                 "pool.window=16", "pool.confirm_timeout=1h", NULL});
    struct peer *peers[4];
    broker.confirms = BROKER_SILENT;
    for (unsigned i = 0; i < 4; i++)
        peers[i] = peer_confirming();
    for (unsigned i = 0; i < 4; i++)
        publish_numbered(peers[i], (const char *[]){"a%u", "b%u", "c%u", "d%u"}[i], 0, 20);
    world_run();
    assert_int_equal(broker.connections, 2);
    assert_int_equal(came_on(1), broker.published);
    for (unsigned round = 0; round < 80 && broker.published < 80; round++)
        broker_confirm_all();
    assert_int_equal(broker.published, 80);
    assert_true(came_on(2) > 0);
    broker_confirm_all();
    for (unsigned i = 0; i < 4; i++) {
        expect_acked_up_to(peers[i], 20);
        peer_close(peers[i]);
    }
}

/* Several are dialled at a time, and RabbitMQ allows no more: that is one failure, and who lacks a
 * connection tries again soon. */
static void test_connections_that_fail_together_put_off_once(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=1000", "pool.upstreams=8",
                                 "pool.window=16", "pool.confirm_timeout=1h", NULL});
    struct peer *peers[8];
    broker.confirms = BROKER_SILENT;
    for (unsigned i = 0; i < 8; i++)
        peers[i] = peer_confirming();
    unsigned connections = broker.connections;
    broker.refuse_code = 530;
    strcpy(broker.refuse_text, "NOT_ALLOWED - connection limit (1) is reached");
    broker.is_slow_to_accept = true;
    for (unsigned round = 0; round < 2; round++)
        for (unsigned i = 0; i < 8; i++) {
            const char form[] = {(char)('a' + i), '%', 'u', 0};
            publish_numbered(peers[i], form, round, round ? 20 : 1);
            world_run();
        }
    broker.is_slow_to_accept = false;
    world_run();
    assert_in_range(broker.connections, connections + 2, connections + 7);
    const struct pool *pool = LIST_ENTRY(world.pools.all.next, struct pool, node);
    assert_true(backoff_is_over(&pool->more, world.now_ms + 1000));
    for (unsigned i = 0; i < 8; i++)
        peer_die(peers[i]);
    broker.refuse_code = 0;
    broker_confirm_all();
}

int main(void)
{
#define ALONE(test) cmocka_unit_test_setup_teardown(test, quiet, world_teardown)
    const struct CMUnitTest tests[] = {
        ALONE(test_a_confirm_opens_the_window_to_all),
        ALONE(test_a_reply_lets_what_is_behind_it_go_on),
        ALONE(test_a_drain_that_deletes_makes_places),
        ALONE(test_a_rejection_makes_a_place),
        ALONE(test_a_confirm_of_what_is_in_doubt_makes_a_place),
        ALONE(test_a_rollback_gives_its_places_back),
        ALONE(test_who_goes_away_gives_its_places_back),
        ALONE(test_a_connection_that_opens_later_takes_who_waits),
        ALONE(test_who_has_something_under_way_stays_until_it_is_confirmed),
        ALONE(test_connections_that_fail_together_put_off_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
