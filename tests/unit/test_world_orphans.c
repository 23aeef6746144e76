/* Workers that are killed: what they leave at RabbitMQ, and what others have of that. Each test has
 * settings of its own. */

#include "../world/world.h"
#include "base/list.h"
#include "base/log.h"

static int quiet(void **state)
{
    (void)state;
    log_init(LOG_ERROR, LOG_LOGFMT);
    return 0;
}

static void begin(void)
{
    world_begin((const char *[]){"pool.publish_buffer_size=1000", "upstream.heartbeat=0", NULL});
}

static void declare(struct peer *p)
{
    amqp_queue_declare_t m = {.queue = bytes_of("results"), .durable = 1};
    peer_send_method(p, 1, AMQP_QUEUE_DECLARE_METHOD, &m);
    world_run();
}

static unsigned connections(void)
{
    unsigned count = 0;
    for (struct list *n = world.upstreams.all.next; n != &world.upstreams.all; n = n->next)
        count++;
    return count;
}

/* RabbitMQ is stuck at it, and would be in a drain. */
static void test_a_declaration_that_nobody_waits_for_is_not_stored(void **state)
{
    (void)state;
    begin();
    struct peer *p = peer_consumer(), *other = peer_login();
    peer_open_confirming(other, 1);
    peer_publish(p, 1, "results", "~one");
    world_run();
    broker.silent_calls = true;
    declare(p);
    peer_die(p);
    world_pass(2500);
    broker.silent_calls = false;
    assert_int_equal(disk.appended, 1); /* what it has published */
    broker_confirm_all();
    world_pass(2500);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(broker_heard("queue.declare"), 1);
    peer_close(other);
}

static void test_a_channel_that_rabbitmq_does_not_close(void **state)
{
    (void)state;
    begin();
    struct peer *p = peer_consumer(), *other = peer_login();
    peer_open_confirming(other, 1);
    assert_int_equal(connections(), 2);
    broker.silent_calls = true;
    declare(p);
    peer_die(p);
    world_pass(30000);
    assert_int_equal(connections(), 2);
    world_pass(3000);
    assert_int_equal(connections(), 1);
    broker.silent_calls = false;
    peer_publish(other, 1, "q", "two");
    peer_expect(other, 1, AMQP_BASIC_ACK_METHOD);
    peer_close(other);
}

/* It had nothing that was not answered. */
static void test_a_worker_that_had_nothing_to_wait_for(void **state)
{
    (void)state;
    begin();
    struct peer *p = peer_consumer();
    broker.silent_calls = true;
    peer_die(p);
    world_pass(33000);
    assert_int_equal(connections(), 1);
}

static void test_an_alarm_is_no_silence(void **state)
{
    (void)state;
    begin();
    struct peer *p = peer_consumer();
    broker.silent_calls = true;
    peer_die(p);
    amqp_connection_blocked_t blocked = {.reason = bytes_of("low on memory")};
    broker_say(0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
    world_pass(120000);
    assert_int_equal(connections(), 2);
    broker_say(0, AMQP_CONNECTION_UNBLOCKED_METHOD, &(amqp_connection_unblocked_t){0});
    world_pass(25000);
    assert_int_equal(connections(), 2);
    world_pass(10000);
    assert_int_equal(connections(), 1);
}

/* pool.close_waits = no: its channel's close does not wait for what it has published. */
static void test_a_close_that_was_sent_behind_publishes(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=0", "upstream.heartbeat=0",
                                 "pool.close_waits=no", NULL});
    struct peer *p = peer_consumer();
    peer_publish(p, 1, "q", "~one");
    world_run();
    broker.silent_calls = true;
    amqp_channel_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
    peer_send_method(p, 1, AMQP_CHANNEL_CLOSE_METHOD, &close);
    world_run();
    peer_die(p);
    world_pass(33000);
    assert_int_equal(connections(), 1);
}

/* A channel that has published cannot begin transactions, and RabbitMQ's word of that may come too
 * late: what such a one commits was retained one by one. */
static void test_a_transaction_of_nothing_is_lost(void **state)
{
    (void)state;
    begin();
    struct peer *p = peer_consumer();
    peer_publish(p, 1, "q", "one");
    world_run();
    broker.is_frozen = true;
    peer_send_plain(p, 1, AMQP_TX_SELECT_METHOD);
    peer_publish(p, 1, "q", "two");
    peer_send_plain(p, 1, AMQP_TX_COMMIT_METHOD);
    world_run();
    broker.is_frozen = false;
    broker_cut();
    world_pass(3000);
    assert_int_equal(disk.appended, 1);
    assert_int_equal(broker.published, 2);
    assert_int_equal(disk_count(false), 0);
    peer_die(p);
}

int main(void)
{
#define ALONE(test) cmocka_unit_test_setup_teardown(test, quiet, world_teardown)
    const struct CMUnitTest tests[] = {
        ALONE(test_a_declaration_that_nobody_waits_for_is_not_stored),
        ALONE(test_a_channel_that_rabbitmq_does_not_close),
        ALONE(test_a_worker_that_had_nothing_to_wait_for),
        ALONE(test_an_alarm_is_no_silence),
        ALONE(test_a_close_that_was_sent_behind_publishes),
        ALONE(test_a_transaction_of_nothing_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
