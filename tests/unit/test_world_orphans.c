/* Workers that are killed: what they leave at RabbitMQ, and what others have of that. Each test has
 * settings of its own. */

#include "../world/world.h"
#include "base/log.h"

static int quiet(void **state)
{
    (void)state;
    log_init(LOG_ERROR, LOG_LOGFMT);
    return 0;
}

static void begin(void)
{
    world_begin((const char *[]){"pool.publish_buffer_size=1000", NULL});
}

static struct peer *worker(void)
{
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    amqp_basic_consume_t m = {.queue = bytes_of("q"), .consumer_tag = bytes_of("tag")};
    peer_send_method(p, 1, AMQP_BASIC_CONSUME_METHOD, &m);
    peer_expect(p, 1, AMQP_BASIC_CONSUME_OK_METHOD);
    return p;
}

static void declare(struct peer *p)
{
    amqp_queue_declare_t m = {.queue = bytes_of("results"), .durable = 1};
    peer_send_method(p, 1, AMQP_QUEUE_DECLARE_METHOD, &m);
    world_run();
}

/* RabbitMQ is stuck at it, and would be in a drain. */
static void test_a_declaration_that_nobody_waits_for_is_not_stored(void **state)
{
    (void)state;
    begin();
    struct peer *p = worker(), *other = peer_login();
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

int main(void)
{
#define ALONE(test) cmocka_unit_test_setup_teardown(test, quiet, world_teardown)
    const struct CMUnitTest tests[] = {
        ALONE(test_a_declaration_that_nobody_waits_for_is_not_stored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
