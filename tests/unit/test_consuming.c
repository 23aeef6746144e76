#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/slab.h"
#include "session/consuming.h"

/* ---- methods in both directions, as they pass ---- */

static struct frame encode(uint8_t *room, size_t size, amqp_method_number_t method, void *fields)
{
    size_t len = method_encode(room, size, 1, method, fields);
    assert_true(len > 0);
    return (struct frame){.type = FRAME_METHOD,
                          .payload = room + FRAME_HEAD_BYTES,
                          .payload_len = (uint32_t)(len - FRAME_OVERHEAD_BYTES)};
}

static void hear(struct consuming *c, amqp_method_number_t method, void *fields,
                 amqp_method_number_t asked, void *asked_fields)
{
    uint8_t room[512], asked_room[512];
    struct frame frame = encode(room, sizeof room, method, fields);
    struct span call = {0};
    if (asked) {
        struct frame f = encode(asked_room, sizeof asked_room, asked, asked_fields);
        call = (struct span){.at = f.payload, .len = f.payload_len};
    }
    consuming_hear(c, method, &frame, asked ? &call : NULL);
}

static void consume(struct consuming *c, const char *tag, bool no_ack)
{
    amqp_basic_consume_t asked = {.queue = bytes_of("a queue"),
                                  .consumer_tag = amqp_empty_bytes,
                                  .no_local = 1,
                                  .no_ack = no_ack,
                                  .exclusive = 1};
    hear(c, AMQP_BASIC_CONSUME_OK_METHOD, &(amqp_basic_consume_ok_t){.consumer_tag = bytes_of(tag)},
         AMQP_BASIC_CONSUME_METHOD, &asked);
}

static void cancelled(struct consuming *c, const char *tag)
{
    hear(c, AMQP_BASIC_CANCEL_OK_METHOD, &(amqp_basic_cancel_ok_t){.consumer_tag = bytes_of(tag)},
         0, NULL);
}

static void cancelled_by_rabbitmq(struct consuming *c, const char *tag)
{
    hear(c, AMQP_BASIC_CANCEL_METHOD, &(amqp_basic_cancel_t){.consumer_tag = bytes_of(tag)}, 0,
         NULL);
}

static void deliver(struct consuming *c, const char *tag, uint64_t delivery)
{
    amqp_basic_deliver_t m = {.consumer_tag = bytes_of(tag),
                              .delivery_tag = delivery,
                              .exchange = bytes_of("x"),
                              .routing_key = bytes_of("k")};
    hear(c, AMQP_BASIC_DELIVER_METHOD, &m, 0, NULL);
}

static void get(struct consuming *c, uint64_t delivery, bool no_ack)
{
    amqp_basic_get_ok_t m = {
        .delivery_tag = delivery, .exchange = bytes_of("x"), .routing_key = bytes_of("k")};
    amqp_basic_get_t asked = {.queue = bytes_of("a queue"), .no_ack = no_ack};
    hear(c, AMQP_BASIC_GET_OK_METHOD, &m, AMQP_BASIC_GET_METHOD, &asked);
}

static bool in_transaction;

static void say(struct consuming *c, amqp_method_number_t method, void *fields)
{
    uint8_t room[64];
    struct frame frame = encode(room, sizeof room, method, fields);
    consuming_say(c, method, &frame, in_transaction);
}

static void ack(struct consuming *c, uint64_t tag, bool multiple)
{
    say(c, AMQP_BASIC_ACK_METHOD, &(amqp_basic_ack_t){.delivery_tag = tag, .multiple = multiple});
}

static void nack(struct consuming *c, uint64_t tag, bool multiple)
{
    say(c, AMQP_BASIC_NACK_METHOD,
        &(amqp_basic_nack_t){.delivery_tag = tag, .multiple = multiple, .requeue = 1});
}

static void commit(struct consuming *c)
{
    say(c, AMQP_TX_COMMIT_METHOD, &(amqp_tx_commit_t){0});
}

static void committed(struct consuming *c)
{
    hear(c, AMQP_TX_COMMIT_OK_METHOD, &(amqp_tx_commit_ok_t){0}, 0, NULL);
}

static void roll_back(struct consuming *c)
{
    say(c, AMQP_TX_ROLLBACK_METHOD, &(amqp_tx_rollback_t){0});
}

static int begin_transactions(void **state)
{
    (void)state;
    in_transaction = true;
    return 0;
}

static int end_transactions(void **state)
{
    (void)state;
    in_transaction = false;
    return 0;
}

/* ---- tests ---- */

static void consumers_come_and_go(void **state)
{
    (void)state;
    struct consuming c = {0};
    assert_true(consuming_is_empty(&c));
    consume(&c, "one", false);
    consume(&c, "two", true);
    cancelled(&c, "another"); /* RabbitMQ says ok to that too */
    cancelled(&c, "one");
    cancelled_by_rabbitmq(&c, "one"); /* they crossed */
    assert_false(consuming_is_empty(&c));
    cancelled_by_rabbitmq(&c, "two");
    assert_true(consuming_is_empty(&c));
    consuming_deinit(&c);
}

static void deliveries_outlive_their_consumer(void **state)
{
    (void)state;
    struct consuming c = {0};
    consume(&c, "acks", false);
    consume(&c, "does not", true);
    deliver(&c, "acks", 1);
    deliver(&c, "does not", 2);
    cancelled(&c, "acks");
    deliver(&c, "does not", 3);
    cancelled(&c, "does not");
    assert_int_equal(c.unsettled, 1);
    ack(&c, 1, false);
    assert_true(consuming_is_empty(&c));
    consuming_deinit(&c);
}

static void gets(void **state)
{
    (void)state;
    struct consuming c = {0};
    get(&c, 1, true);
    hear(&c, AMQP_BASIC_GET_EMPTY_METHOD, &(amqp_basic_get_empty_t){0}, 0, NULL);
    assert_true(consuming_is_empty(&c));
    get(&c, 2, false);
    assert_false(consuming_is_empty(&c));
    say(&c, AMQP_BASIC_REJECT_METHOD, &(amqp_basic_reject_t){.delivery_tag = 2, .requeue = 1});
    assert_true(consuming_is_empty(&c));
    get(&c, 3, false);
    hear(&c, AMQP_BASIC_RECOVER_OK_METHOD, &(amqp_basic_recover_ok_t){0}, 0, NULL);
    assert_true(consuming_is_empty(&c));
    get(&c, 4, false);
    say(&c, AMQP_BASIC_RECOVER_ASYNC_METHOD, &(amqp_basic_recover_async_t){.requeue = 1});
    assert_true(consuming_is_empty(&c));
    consuming_deinit(&c);
}

static void settled_in_any_order(void **state)
{
    (void)state;
    struct consuming c = {0};
    for (uint64_t tag = 1; tag <= 100; tag++)
        get(&c, tag, false);
    ack(&c, 50, false);
    ack(&c, 50, false); /* twice, and one that never was: RabbitMQ's to judge */
    ack(&c, 200, false);
    assert_int_equal(c.unsettled, 99);
    nack(&c, 49, true);
    assert_int_equal(c.unsettled, 50);
    ack(&c, 49, true);
    assert_int_equal(c.unsettled, 50);
    get(&c, 101, false);
    ack(&c, 0, true); /* all */
    assert_true(consuming_is_empty(&c));
    consuming_deinit(&c);
}

/* One that is kept for ever costs no memory for those that come and go behind it. */
static void settled_ones_take_no_room(void **state)
{
    (void)state;
    struct consuming c = {0};
    for (uint64_t tag = 1; tag <= 100000; tag++) {
        get(&c, tag, false);
        if (tag > 1)
            ack(&c, tag, false);
    }
    assert_int_equal(c.unsettled, 1);
    assert_true(c.tag_capacity <= 16);
    consuming_deinit(&c);
}

static void a_burst_leaves_no_room_behind(void **state)
{
    (void)state;
    struct consuming c = {0};
    for (uint64_t tag = 1; tag <= 10000; tag++)
        get(&c, tag, false);
    ack(&c, 0, true);
    assert_true(c.tag_capacity <= 1024);
    get(&c, 10001, false);
    ack(&c, 10001, false);
    assert_true(consuming_is_empty(&c));
    consuming_deinit(&c);
}

/* Acks of many take a prefix away without moving the rest, and tags go on behind it. */
static void prefixes_are_settled_in_place(void **state)
{
    (void)state;
    struct consuming c = {0};
    for (uint64_t tag = 1; tag <= 1000; tag++)
        get(&c, tag, false);
    for (uint64_t tag = 1; tag < 1000; tag++) {
        uint32_t first = c.tag_first;
        ack(&c, tag, true);
        assert_int_equal(c.tag_first, first + 1);
        assert_int_equal(c.unsettled, 1000 - tag);
    }
    for (uint64_t tag = 1001; tag <= 100000; tag++) {
        get(&c, tag, false);
        ack(&c, tag - 1, true);
        assert_int_equal(c.unsettled, 1);
    }
    assert_true(c.tag_capacity <= 1024);
    ack(&c, 99999, false); /* settled already */
    assert_int_equal(c.unsettled, 1);
    ack(&c, 100000, false);
    assert_true(consuming_is_empty(&c));
    consuming_deinit(&c);
}

static void acks_count_with_their_commit(void **state)
{
    (void)state;
    struct consuming c = {0};
    for (uint64_t tag = 1; tag <= 6; tag++)
        get(&c, tag, false);
    ack(&c, 1, false);
    nack(&c, 3, true);
    commit(&c);
    say(&c, AMQP_BASIC_REJECT_METHOD, &(amqp_basic_reject_t){.delivery_tag = 5, .requeue = 1});
    commit(&c);
    ack(&c, 6, false); /* of the next one */
    assert_int_equal(c.unsettled, 6);
    committed(&c);
    assert_int_equal(c.unsettled, 3);
    committed(&c);
    assert_int_equal(c.unsettled, 2);
    consuming_commit(&c);
    committed(&c);
    assert_int_equal(c.unsettled, 1);
    committed(&c); /* one too many */
    assert_int_equal(c.unsettled, 1);
    consuming_deinit(&c);
}

static void a_rollback_takes_back_its_own_acks(void **state)
{
    (void)state;
    struct consuming c = {0};
    for (uint64_t tag = 1; tag <= 3; tag++)
        get(&c, tag, false);
    ack(&c, 1, false);
    commit(&c);
    ack(&c, 2, false);
    roll_back(&c);
    ack(&c, 3, false);
    commit(&c);
    committed(&c);
    committed(&c);
    assert_int_equal(c.unsettled, 1);
    consuming_deinit(&c);
}

static void all_in_a_transaction_is_what_was_delivered(void **state)
{
    (void)state;
    struct consuming c = {0};
    ack(&c, 0, true); /* of nothing */
    get(&c, 1, false);
    get(&c, 2, false);
    for (unsigned i = 0; i < 1000; i++)
        ack(&c, 0, true); /* RabbitMQ takes that again and again */
    assert_true(c.held_capacity <= 4);
    commit(&c);
    get(&c, 3, false);
    committed(&c);
    assert_int_equal(c.unsettled, 1);
    consuming_deinit(&c);
}

static void cut_methods_are_no_harm(void **state)
{
    (void)state;
    static const amqp_method_number_t methods[] = {
        AMQP_BASIC_CONSUME_OK_METHOD, AMQP_BASIC_CANCEL_METHOD, AMQP_BASIC_DELIVER_METHOD,
        AMQP_BASIC_GET_OK_METHOD,     AMQP_BASIC_ACK_METHOD,    AMQP_BASIC_NACK_METHOD,
    };
    struct consuming c = {0};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        for (size_t len = 0; len < 14; len++) {
            uint8_t *exact = malloc(len + 1);
            memset(exact, 9, len + 1);
            struct frame frame = {
                .type = FRAME_METHOD, .payload = exact + 1, .payload_len = (uint32_t)len};
            struct span call = {.at = exact + 1, .len = len};
            consuming_hear(&c, methods[i], &frame, &call);
            consuming_say(&c, methods[i], &frame, false);
            consuming_say(&c, methods[i], &frame, true);
            free(exact);
        }
    }
    consuming_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(consumers_come_and_go),
        cmocka_unit_test(gets),
        cmocka_unit_test(settled_in_any_order),
        cmocka_unit_test(settled_ones_take_no_room),
        cmocka_unit_test(prefixes_are_settled_in_place),
        cmocka_unit_test(a_burst_leaves_no_room_behind),
        cmocka_unit_test(cut_methods_are_no_harm),
        cmocka_unit_test(deliveries_outlive_their_consumer),
        cmocka_unit_test_setup_teardown(acks_count_with_their_commit, begin_transactions,
                                        end_transactions),
        cmocka_unit_test_setup_teardown(a_rollback_takes_back_its_own_acks, begin_transactions,
                                        end_transactions),
        cmocka_unit_test_setup_teardown(all_in_a_transaction_is_what_was_delivered,
                                        begin_transactions, end_transactions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
