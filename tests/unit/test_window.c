/* How the publishes under way on one upstream are shared out among destinations. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "amqp/destination.h"
#include "amqp/frame.h"
#include "amqp/method.h"
#include "upstream/window.h"

static uint64_t destination(const char *exchange, const char *key)
{
    static uint8_t frame[1024];
    amqp_basic_publish_t publish = {.exchange = amqp_cstring_bytes(exchange),
                                    .routing_key = amqp_cstring_bytes(key)};
    size_t size = method_encode(frame, sizeof frame, 1, AMQP_BASIC_PUBLISH_METHOD, &publish);
    assert_true(size > 0);
    return destination_of(frame + FRAME_HEAD_BYTES, size - FRAME_OVERHEAD_BYTES);
}

/* Sends there as long as it may; returns how many that were. */
static uint32_t fill(struct window *w, uint64_t where, uint32_t size)
{
    uint32_t sent = 0;
    for (; window_has_room(w, where, size); sent++)
        window_take(w, where, 1);
    return sent;
}

static void test_names(void **state)
{
    (void)state;
    assert_true(destination("", "a") == destination("", "a"));
    assert_true(destination("", "a") != destination("", "b"));
    assert_true(destination("x", "a") != destination("y", "a"));
    assert_true(destination("ab", "c") != destination("a", "bc"));
    assert_true(destination("a", "") != destination("", "a"));
    assert_true(destination("", "") != 0);
    assert_true(destination_of((const uint8_t *)"x", 1) != 0);
}

static void test_one_alone_has_all(void **state)
{
    (void)state;
    for (uint32_t size = 1; size < 300; size++) {
        struct window w = {0};
        assert_int_equal(fill(&w, 7, size), size);
        window_give_back(&w, 7, 1);
        assert_int_equal(fill(&w, 7, size), 1);
        window_clear(&w);
    }
}

static void test_others_find_room_beside_a_full_one(void **state)
{
    (void)state;
    struct window w = {0};
    assert_int_equal(fill(&w, 1, 256), 256);
    assert_int_equal(fill(&w, 2, 256), 28);
    assert_int_equal(fill(&w, 3, 256), 25);
    uint32_t more = 0;
    for (uint64_t other = 4; fill(&w, other, 256) > 0; other++)
        more++;
    assert_true(more > 30); /* at least one each */
    assert_int_equal(w.under_way, 2 * 256 - 1);
    window_give_back(&w, 1, 1);
    assert_false(window_has_room(&w, 1, 256)); /* those with less come first */
    assert_true(window_has_room(&w, 1000, 256));
    window_clear(&w);
}

/* Who wants the order of messages kept whatever RabbitMQ does sends one at a time. */
static void test_window_of_one_is_one_in_all(void **state)
{
    (void)state;
    struct window w = {0};
    window_take(&w, 1, 1);
    assert_false(window_has_room(&w, 1, 1));
    assert_false(window_has_room(&w, 2, 1));
    window_give_back(&w, 1, 1);
    assert_true(window_has_room(&w, 2, 1));
    window_clear(&w);
}

/* Against plain counters, with destinations that fall on the same places of the table. */
static void test_any_order_of_confirms(void **state)
{
    (void)state;
    enum { NAMES = 40 };
    uint32_t counts[NAMES] = {0}, total = 0;
    struct window w = {0};
    srandom(1);
    for (int i = 0; i < 200000; i++) {
        uint32_t n = (uint32_t)random() % NAMES;
        uint64_t name = (uint64_t)(n % 5) + 16 * (uint64_t)n + 1;
        if (counts[n] > 0 && random() % 2) {
            window_give_back(&w, name, 1);
            counts[n]--;
            total--;
        } else if (window_has_room(&w, name, 64)) {
            window_take(&w, name, 1);
            counts[n]++;
            total++;
        }
        assert_int_equal(w.under_way, total);
        assert_true(total <= 127 && counts[n] <= 64);
    }
    for (uint32_t n = 0; n < NAMES; n++)
        for (; counts[n] > 0; counts[n]--)
            window_give_back(&w, (uint64_t)(n % 5) + 16 * (uint64_t)n + 1, 1);
    assert_int_equal(w.shares.used, 0);
    assert_int_equal(w.under_way, 0);
    window_clear(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_one_alone_has_all),
        cmocka_unit_test(test_others_find_room_beside_a_full_one),
        cmocka_unit_test(test_window_of_one_is_one_in_all),
        cmocka_unit_test(test_any_order_of_confirms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
