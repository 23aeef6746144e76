/* What is under way to RabbitMQ has a bound, in messages and in bytes. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "config/config.h"
#include "upstream/under_way.h"

enum { BYTES = 8000 };

static struct config config;
static struct under_way u;

static int begin(void **state)
{
    (void)state;
    config.pool.window = 10;
    config.pool.window_bytes = BYTES;
    under_way_init(&u);
    return 0;
}

static int end(void **state)
{
    (void)state;
    under_way_deinit(&u);
    return 0;
}

static void test_one_always_fits(void **state)
{
    (void)state;
    assert_true(under_way_has_room(&u, &config, 1, 10 * BYTES));
    under_way_add(&u, 1, 1, 10 * BYTES);
    assert_false(under_way_has_room(&u, &config, 1, 1));
    assert_false(under_way_has_room(&u, &config, 2, 1));
    under_way_remove(&u, 1, 1, 10 * BYTES);
    assert_true(under_way_has_room(&u, &config, 2, 1));
}

/* An eighth is kept for destinations to which nothing is under way, and not a byte more. */
static void test_bytes_for_what_is_new(void **state)
{
    (void)state;
    under_way_add(&u, 1, 2, BYTES - BYTES / 8);
    assert_false(under_way_has_room(&u, &config, 1, 1));
    assert_true(under_way_has_room(&u, &config, 2, BYTES / 8));
    assert_false(under_way_has_room(&u, &config, 2, BYTES / 8 + 1));
    under_way_add(&u, 2, 1, BYTES / 8);
    assert_false(under_way_has_room(&u, &config, 3, 1));
    under_way_remove(&u, 1, 2, BYTES - BYTES / 8);
    under_way_remove(&u, 2, 1, BYTES / 8);
    assert_int_equal(u.bytes, 0);
}

/* The socket may be full of what nobody confirms: the size would be worked out from the pause. */
static void test_nothing_is_learned_of_an_empty_window(void **state)
{
    (void)state;
    under_way_add(&u, 1, 5, 100);
    under_way_is_full(&u);
    assert_int_equal(u.tuned.round_end, 5);
    under_way_remove(&u, 1, 5, 100);
    assert_true(u.tuned.round_end_ns > 0);
    autotune_init(&u.tuned);
    u.tuned.settled = 5;
    under_way_is_full(&u);
    assert_int_equal(u.tuned.round_end, 0);
}

static void test_room_is_what_is_left(void **state)
{
    (void)state;
    uint64_t bytes;
    assert_int_equal(under_way_room(&u, &config, &bytes), 10);
    assert_int_equal(bytes, BYTES - BYTES / 8);
    assert_false(under_way_is_busy(&u, &config));
    under_way_add(&u, 1, 5, 100);
    assert_int_equal(under_way_room(&u, &config, &bytes), 5);
    assert_int_equal(bytes, BYTES - BYTES / 8 - 100);
    assert_true(under_way_is_busy(&u, &config));
    under_way_add(&u, 1, 5, BYTES);
    assert_int_equal(under_way_room(&u, &config, &bytes), 0);
    assert_int_equal(bytes, 0);
    under_way_remove(&u, 1, 10, BYTES + 100);
    assert_false(under_way_is_busy(&u, &config));
}

int main(void)
{
#define ALONE(test) cmocka_unit_test_setup_teardown(test, begin, end)
    const struct CMUnitTest tests[] = {
        ALONE(test_nothing_is_learned_of_an_empty_window),
        ALONE(test_one_always_fits),
        ALONE(test_bytes_for_what_is_new),
        ALONE(test_room_is_what_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
