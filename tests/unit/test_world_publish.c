/* Publishes: live, in an outage, drained, in doubt; what becomes of them and who hears of it. */

#include "../world/world.h"

static uint64_t expect_ack(struct peer *p, uint16_t channel)
{
    const amqp_basic_ack_t *ack = peer_expect(p, channel, AMQP_BASIC_ACK_METHOD);
    return ack->delivery_tag;
}

static void expect_acked_up_to(struct peer *p, uint16_t channel, uint64_t tag)
{
    uint64_t acked = 0;
    while (acked < tag)
        acked = expect_ack(p, channel);
    assert_int_equal(acked, tag);
}

static void test_a_live_publish_is_confirmed_by_rabbitmq(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker.confirms = BROKER_SILENT;
    peer_publish(p, 1, "q", "one");
    world_run();
    assert_int_equal(broker.published, 1);
    assert_string_equal(broker.bodies[0], "one");
    assert_int_equal(world_queue()->retained, 1);
    peer_expect_nothing(p);
    broker_confirm_all();
    assert_int_equal(expect_ack(p, 1), 1);
    assert_int_equal(world_queue()->retained, 0);
    assert_int_equal(disk.appended, 0);
    peer_close(p);
}

static void test_a_nack_is_passed_on(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker.confirms = BROKER_NACKS;
    peer_publish(p, 1, "q", "one");
    const amqp_basic_nack_t *nack = peer_expect(p, 1, AMQP_BASIC_NACK_METHOD);
    assert_int_equal(nack->delivery_tag, 1);
    assert_int_equal(disk.appended, 0);
    peer_close(p);
}

/* A nack that nobody hears must not make the message vanish. */
static void test_a_nack_without_confirms_goes_to_the_spool(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    broker.confirms = BROKER_NACKS;
    peer_publish(p, 1, "q", "one");
    world_run();
    assert_true(disk.appended >= 1);
    broker.confirms = BROKER_ACKS;
    world_pass(20000);
    assert_int_equal(disk_count(false), 0);
    assert_string_equal(broker.bodies[broker.published - 1], "one");
    peer_close(p);
}

static void test_an_outage_is_not_noticed(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    peer_publish(p, 1, "q", "before");
    assert_int_equal(expect_ack(p, 1), 1);
    broker_down();
    peer_publish(p, 1, "q", "during");
    assert_int_equal(expect_ack(p, 1), 2);
    assert_int_equal(disk_count(false), 1);
    assert_string_equal(disk_body(0), "during");
    broker_up();
    world_pass(30000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(broker.published, 2);
    assert_string_equal(broker.bodies[1], "during");
    peer_publish(p, 1, "q", "after");
    assert_int_equal(expect_ack(p, 1), 3);
    assert_int_equal(disk.appended, 1);
    assert_int_equal(world_queue()->backlog.drained, 1);
    peer_close(p);
}

static void test_what_rabbitmq_had_not_confirmed_is_spooled_in_order(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker.confirms = BROKER_SILENT;
    peer_publish(p, 1, "q", "1");
    peer_publish(p, 1, "q", "2");
    peer_publish(p, 1, "q", "3");
    world_run();
    assert_int_equal(broker.published, 3);
    broker_down();
    expect_acked_up_to(p, 1, 3);
    assert_string_equal(disk_body(0), "1");
    assert_string_equal(disk_body(1), "2");
    assert_string_equal(disk_body(2), "3");
    broker.confirms = BROKER_ACKS;
    broker_up();
    world_pass(30000);
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
}

/* RabbitMQ's channels are gone through one by one; the order is that of all publishes. */
static void test_channels_are_spooled_in_one_order(void **state)
{
    (void)state;
    static const char *const bodies[] = {"1", "2", "3", "4", "5", "6"};
    struct peer *p = peer_login();
    for (uint16_t channel = 1; channel <= 3; channel++)
        peer_open_confirming(p, channel);
    broker.confirms = BROKER_SILENT;
    for (unsigned i = 0; i < 6; i++)
        peer_publish(p, (uint16_t)(1 + i % 3), "q", bodies[i]);
    world_run();
    assert_int_equal(broker.published, 6);
    broker_down();
    assert_int_equal(disk_count(false), 6);
    for (unsigned i = 0; i < 6; i++)
        assert_string_equal(disk_body(i), bodies[i]);
    peer_die(p);
}

static void test_what_is_confirmed_out_of_turn_is_not_spooled(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker.confirms = BROKER_SILENT;
    peer_publish(p, 1, "q", "1");
    peer_publish(p, 1, "q", "2");
    peer_publish(p, 1, "q", "3");
    world_run();
    broker_say(1, AMQP_BASIC_ACK_METHOD, &(amqp_basic_ack_t){.delivery_tag = 2});
    world_run();
    broker_down();
    expect_acked_up_to(p, 1, 3);
    assert_int_equal(disk_count(false), 2);
    assert_string_equal(disk_body(0), "1");
    assert_string_equal(disk_body(1), "3");
    assert_int_equal(world_queue()->retained, 0);
    peer_close(p);
}

static void test_a_close_waits_for_the_confirms(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    broker.confirms = BROKER_SILENT;
    peer_publish(p, 1, "q", "one");
    amqp_channel_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
    peer_send_method(p, 1, AMQP_CHANNEL_CLOSE_METHOD, &close);
    peer_expect_nothing(p);
    broker_confirm_all();
    peer_expect(p, 1, AMQP_CHANNEL_CLOSE_OK_METHOD);
    peer_close(p);
}

static void test_what_is_returned_comes_before_its_confirm(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker.returns = true;
    peer_publish_to(p, 1, "x", "nowhere", "lost", true);
    const amqp_basic_return_t *back = peer_expect(p, 1, AMQP_BASIC_RETURN_METHOD);
    assert_int_equal(back->reply_code, 312);
    struct frame frame;
    assert_int_equal(peer_read(p, &frame), FRAME_HEADER);
    assert_int_equal(peer_read(p, &frame), FRAME_BODY);
    assert_memory_equal(frame.payload, "lost", 4);
    assert_int_equal(expect_ack(p, 1), 1);
    peer_close(p);
}

static void test_an_exception_closes_the_channel_alone(void **state)
{
    (void)state;
    struct peer *p = peer_login(), *other = peer_login();
    peer_open_confirming(p, 1);
    peer_open_confirming(other, 1);
    peer_publish_to(p, 1, "x", "q", "!bad", false);
    const amqp_channel_close_t *close = peer_expect(p, 1, AMQP_CHANNEL_CLOSE_METHOD);
    assert_int_equal(close->reply_code, 404);
    peer_send_plain(p, 1, AMQP_CHANNEL_CLOSE_OK_METHOD);
    peer_open_confirming(p, 1);
    peer_publish(p, 1, "q", "good");
    assert_int_equal(expect_ack(p, 1), 1);
    peer_publish(other, 1, "q", "good");
    assert_int_equal(expect_ack(other, 1), 1);
    peer_close(p);
    peer_close(other);
}

/* A window of good ones around a bad one: it alone is rejected. */
static void test_a_drain_finds_the_bad_message(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker_down();
    char body[16];
    for (unsigned i = 0; i < 40; i++) {
        snprintf(body, sizeof body, "%s%u", i == 23 ? "!" : "", i);
        peer_publish_to(p, 1, "x", "q", body, false);
    }
    expect_acked_up_to(p, 1, 40);
    broker.close_code = 406;
    broker_up();
    world_pass(60000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(disk_count(true), 1);
    assert_int_equal(world_queue()->backlog.rejected, 1);
    assert_int_equal(world_queue()->backlog.drained, 39);
    peer_close(p);
}

/* Not confirmed for pool.confirm_timeout: a copy is stored, and stands for it if the channel is
 * lost; a late confirm deletes it. */
static void test_a_silent_destination_is_set_aside(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker.confirms = BROKER_SILENT;
    peer_publish(p, 1, "q", "late");
    world_pass(29000);
    assert_int_equal(disk.appended, 0);
    world_pass(2000);
    assert_int_equal(disk.appended, 1);
    assert_int_equal(expect_ack(p, 1), 1); /* it is on disk */
    broker_confirm_all();
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(disk.deleted, 1);
    assert_int_equal(broker.published, 1);
    peer_close(p);
}

static void test_an_alarm_sends_publishes_to_the_spool(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    peer_publish(p, 1, "q", "before");
    assert_int_equal(expect_ack(p, 1), 1);
    amqp_connection_blocked_t blocked = {.reason = bytes_of("low on memory")};
    broker_say(0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
    peer_publish(p, 1, "q", "during");
    assert_int_equal(expect_ack(p, 1), 2);
    assert_int_equal(disk_count(false), 1);
    broker_say(0, AMQP_CONNECTION_UNBLOCKED_METHOD, &(amqp_connection_unblocked_t){0});
    world_pass(5000);
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
}

static void test_a_full_disk_closes_the_publisher(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker_down();
    disk.is_full = true;
    peer_publish(p, 1, "q", "one");
    const amqp_connection_close_t *close = peer_expect(p, 0, AMQP_CONNECTION_CLOSE_METHOD);
    assert_int_equal(close->reply_code, 506);
    peer_send_plain(p, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
    peer_expect_end(p);
}

static void test_a_delete_that_fails_is_tried_again(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker_down();
    peer_publish(p, 1, "q", "one");
    assert_int_equal(expect_ack(p, 1), 1);
    disk.deletes_fail = true;
    broker_up();
    world_pass(10000);
    assert_int_equal(disk_count(false), 1);
    unsigned sent = broker.published;
    disk.deletes_fail = false;
    world_pass(2000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(broker.published, sent); /* and not sent again for it */
    peer_close(p);
}

static void test_a_publisher_that_dies_has_published(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    broker.confirms = BROKER_SILENT;
    peer_publish(p, 1, "q", "one");
    world_run();
    peer_die(p);
    assert_int_equal(world_queue()->retained, 1);
    broker_down();
    assert_string_equal(disk_body(0), "one");
    broker.confirms = BROKER_ACKS;
    broker_up();
    world_pass(30000);
    assert_int_equal(disk_count(false), 0);
}

/* An upstream that offers no confirms proves what it has with its close-ok alone. */
static void test_a_broker_without_confirms(void **state)
{
    (void)state;
    broker.offers_confirms = false;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    peer_publish(p, 1, "q", "one");
    amqp_channel_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
    peer_send_method(p, 1, AMQP_CHANNEL_CLOSE_METHOD, &close);
    peer_expect(p, 1, AMQP_CHANNEL_CLOSE_OK_METHOD);
    assert_int_equal(broker.published, 1);
    peer_open_confirming(p, 2);
    peer_publish(p, 2, "q", "two"); /* confirmed by the spool, and drained */
    assert_int_equal(expect_ack(p, 2), 1);
    world_pass(10000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(broker.published, 2);
    peer_close(p);
}

int main(void)
{
#define IN_WORLD(test) cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)
    const struct CMUnitTest tests[] = {
        IN_WORLD(test_a_live_publish_is_confirmed_by_rabbitmq),
        IN_WORLD(test_a_nack_is_passed_on),
        IN_WORLD(test_a_nack_without_confirms_goes_to_the_spool),
        IN_WORLD(test_an_outage_is_not_noticed),
        IN_WORLD(test_what_rabbitmq_had_not_confirmed_is_spooled_in_order),
        IN_WORLD(test_channels_are_spooled_in_one_order),
        IN_WORLD(test_what_is_confirmed_out_of_turn_is_not_spooled),
        IN_WORLD(test_a_close_waits_for_the_confirms),
        IN_WORLD(test_what_is_returned_comes_before_its_confirm),
        IN_WORLD(test_an_exception_closes_the_channel_alone),
        IN_WORLD(test_a_drain_finds_the_bad_message),
        IN_WORLD(test_a_silent_destination_is_set_aside),
        IN_WORLD(test_an_alarm_sends_publishes_to_the_spool),
        IN_WORLD(test_a_full_disk_closes_the_publisher),
        IN_WORLD(test_a_delete_that_fails_is_tried_again),
        IN_WORLD(test_a_publisher_that_dies_has_published),
        IN_WORLD(test_a_broker_without_confirms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
