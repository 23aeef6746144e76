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
        calls_end_oldest(&calls);
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
    calls_end_oldest(&calls);
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
    assert_false(calls_end_oldest(&calls));
    assert_true(calls_end_oldest(&calls));
    assert_false(calls_end_oldest(&calls));
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_end_in_order),
        cmocka_unit_test(test_calls_have_a_limit),
        cmocka_unit_test(test_who_waits_for_an_answer),
        cmocka_unit_test(test_publishes_keep_their_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
