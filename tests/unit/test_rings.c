/* What a relay keeps until RabbitMQ has answered: methods and publishes, each in a ring. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "session/awaited.h"
#include "session/retained.h"

static void test_calls_end_in_order(void **state)
{
    (void)state;
    struct calls calls = {0};
    uint64_t stamp = 0, ended = 0;
    for (unsigned round = 0; round < 50; round++) { /* the ring turns while it grows */
        for (unsigned i = 0; i < 3; i++)
            calls_add(&calls, AMQP_QUEUE_PURGE_METHOD, ++stamp);
        assert_int_equal(calls_at(&calls, 0)->stamp, ++ended);
        assert_int_equal(calls_at(&calls, calls.count - 1)->stamp, stamp);
        calls_end(&calls, calls_at(&calls, 0));
    }
    assert_int_equal(calls.count, 100);
    calls_deinit(&calls);
    assert_int_equal(calls.count, 0);
}

static void test_calls_have_a_limit(void **state)
{
    (void)state;
    struct calls calls = {0};
    for (unsigned i = 0; i < AWAITED_MAX; i++) {
        assert_true(calls_have_room(&calls));
        calls_add(&calls, AMQP_QUEUE_PURGE_METHOD, i);
    }
    assert_false(calls_have_room(&calls));
    calls_end(&calls, calls_at(&calls, 0));
    assert_true(calls_have_room(&calls));
    calls_deinit(&calls);
}

static void test_who_waits_for_an_answer(void **state)
{
    (void)state;
    struct calls calls = {0};
    struct slab *slab = slab_new(100);
    calls_add(&calls, AMQP_CHANNEL_OPEN_METHOD, 1); /* the proxy's own */
    calls_add(&calls, AMQP_QUEUE_PURGE_METHOD, 2)->payload = span_of(slab, slab->data, 10);
    struct awaited *last = calls_add(&calls, AMQP_QUEUE_PURGE_METHOD, 3);
    last->payload = span_of(slab, slab->data, 10);
    last->nowait = true;
    assert_int_equal(slab->refs, 3);
    assert_false(calls_end(&calls, calls_at(&calls, 0)));
    assert_true(calls_end(&calls, calls_at(&calls, 0)));
    assert_false(calls_end(&calls, calls_at(&calls, 0)));
    assert_int_equal(slab->refs, 1);
    calls_deinit(&calls);
    slab_unref(slab);
    slab_trim();
}

static struct awaited *add_sent(struct calls *calls, struct slab *slab, amqp_method_number_t method,
                                const void *fields)
{
    size_t size =
        method_encode(slab->data + slab->used, slab->capacity - slab->used, 1, method, fields);
    struct awaited *call = calls_add(calls, method, 0);
    calls_keep(calls, span_of(slab, slab->data + slab->used + FRAME_HEAD_BYTES,
                              size - FRAME_OVERHEAD_BYTES));
    slab->used += size;
    return call;
}

/* The stamp of the call that is answered; it is ended. 0: none. */
static uint64_t end_answered(struct calls *calls, amqp_method_number_t method, const void *fields)
{
    uint8_t bytes[FRAME_MIN_SIZE];
    size_t size = method_encode(bytes, sizeof bytes, 1, method, fields);
    struct frame frame = {.type = FRAME_METHOD,
                          .payload = bytes + FRAME_HEAD_BYTES,
                          .payload_len = (uint32_t)(size - FRAME_OVERHEAD_BYTES)};
    struct awaited *call = calls_find(calls, method, &frame);
    uint64_t stamp = call ? call->stamp : 0;
    if (call)
        calls_end(calls, call);
    return stamp;
}

static void test_queues_answer_later(void **state)
{
    (void)state;
    struct calls calls = {0};
    struct slab *slab = slab_new(4000);
    amqp_basic_consume_t one = {.queue = bytes_of("q"), .consumer_tag = bytes_of("one")},
                         two = {.queue = bytes_of("q"), .consumer_tag = bytes_of("two")},
                         nameless = {.queue = bytes_of("q")};
    amqp_basic_cancel_t cancel = {.consumer_tag = bytes_of("one")};
    amqp_basic_consume_ok_t ok_one = {bytes_of("one")}, ok_two = {bytes_of("two")},
                            ok_made_up = {bytes_of("amq.ctag-1")};
    amqp_basic_cancel_ok_t cancelled = {bytes_of("one")};
    calls_add(&calls, AMQP_CHANNEL_OPEN_METHOD, 1); /* the proxy's own */
    add_sent(&calls, slab, AMQP_BASIC_CONSUME_METHOD, &one)->stamp = 2;
    add_sent(&calls, slab, AMQP_BASIC_CONSUME_METHOD, &two)->stamp = 3;
    add_sent(&calls, slab, AMQP_BASIC_CANCEL_METHOD, &cancel)->stamp = 4;
    add_sent(&calls, slab, AMQP_BASIC_CONSUME_METHOD, &nameless)->stamp = 5;
    calls_add(&calls, AMQP_CONFIRM_SELECT_METHOD, 6);
    assert_int_equal(
        end_answered(&calls, AMQP_CHANNEL_OPEN_OK_METHOD, &(amqp_channel_open_ok_t){0}), 1);
    assert_int_equal(
        end_answered(&calls, AMQP_CONFIRM_SELECT_OK_METHOD, &(amqp_confirm_select_ok_t){0}), 6);
    assert_int_equal(
        end_answered(&calls, AMQP_CONFIRM_SELECT_OK_METHOD, &(amqp_confirm_select_ok_t){0}), 0);
    assert_int_equal(end_answered(&calls, AMQP_BASIC_CANCEL_OK_METHOD, &cancelled), 4);
    assert_int_equal(end_answered(&calls, AMQP_BASIC_CONSUME_OK_METHOD, &ok_two), 3);
    assert_int_equal(end_answered(&calls, AMQP_BASIC_CONSUME_OK_METHOD, &ok_made_up), 5);
    assert_int_equal(end_answered(&calls, AMQP_BASIC_CONSUME_OK_METHOD, &ok_one), 2);
    assert_int_equal(calls.count, 0);
    assert_int_equal(slab->refs, 1);
    calls_deinit(&calls);
    slab_unref(slab);
    slab_trim();
}

static struct retained *retain(struct unconfirmed *u, struct slab *slab, uint64_t stamp)
{
    struct message m;
    message_init(&m);
    m.method = span_of(slab, slab->data, 10);
    m.body[0] = span_of(slab, slab->data, 10);
    m.body_count = 1;
    struct retained *entry = unconfirmed_add(u);
    retained_keep(entry, &m);
    entry->stamp = stamp;
    assert_null(m.method.slab);
    assert_true(retained_is_kept(entry));
    return entry;
}

static void test_publishes_keep_their_places(void **state)
{
    (void)state;
    struct unconfirmed u = {0};
    struct slab *slab = slab_new(100);
    for (uint64_t i = 0; i < 100; i++)
        retain(&u, slab, i);
    for (uint32_t i = 0; i < 100; i++) {
        struct retained *entry = unconfirmed_at(&u, i);
        assert_int_equal(entry->stamp, i);
        assert_int_equal(entry->state, RETAINED_OPEN);
        struct message view;
        const struct message *kept = retained_look(entry, &view);
        assert_int_equal(kept->method.len, 10);
        assert_int_equal(kept->body[0].len, 10);
    }
    for (uint32_t i = 50; i < 60; i++) {
        retained_drop(unconfirmed_at(&u, i));
        retained_move(unconfirmed_at(&u, i), RETAINED_SETTLED);
    }
    unconfirmed_drop_settled(&u); /* those before are open */
    assert_int_equal(u.count, 100);
    for (uint32_t i = 0; i < 50; i++) {
        retained_drop(unconfirmed_at(&u, i));
        retained_move(unconfirmed_at(&u, i), RETAINED_SETTLED);
    }
    unconfirmed_drop_settled(&u);
    assert_int_equal(u.count, 40);
    assert_int_equal(unconfirmed_at(&u, 0)->stamp, 60);
    while (u.count > 0)
        unconfirmed_drop_oldest(&u);
    assert_int_equal(slab->refs, 1);
    unconfirmed_deinit(&u);
    slab_unref(slab);
    slab_trim();
}

static void settle_all(struct unconfirmed *u)
{
    for (uint32_t i = 0; i < u->count; i++)
        retained_move(unconfirmed_at(u, i), RETAINED_SETTLED);
    unconfirmed_drop_settled(u);
}

static void drop_all(struct unconfirmed *u)
{
    while (u->count > 0)
        unconfirmed_drop_oldest(u);
}

/* Each of many channels may have had all of a large window once. */
static void test_a_burst_leaves_no_room_behind(void **state)
{
    (void)state;
    static void (*const ends[])(struct unconfirmed *) = {settle_all, drop_all};
    struct unconfirmed u = {0};
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned k = 0; k < 5000; k++)
            unconfirmed_add(&u);
        ends[i](&u);
        assert_int_equal(u.count, 0);
        unconfirmed_add(&u);
        unconfirmed_rest(&u);
        assert_true(u.capacity >= 5000); /* it is in use */
        ends[i](&u);
        unconfirmed_rest(&u);
        assert_true(u.capacity <= 256);
        unconfirmed_add(&u);
        ends[i](&u);
    }
    unconfirmed_deinit(&u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_end_in_order),
        cmocka_unit_test(test_calls_have_a_limit),
        cmocka_unit_test(test_who_waits_for_an_answer),
        cmocka_unit_test(test_queues_answer_later),
        cmocka_unit_test(test_publishes_keep_their_places),
        cmocka_unit_test(test_a_burst_leaves_no_room_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
