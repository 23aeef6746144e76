#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pool/backoff.h"

static void test_each_wait_is_twice_the_one_before(void **state)
{
    (void)state;
    struct backoff b = {0};
    assert_true(backoff_is_over(&b, 0));
    static const uint64_t expected[] = {100, 200, 400, 800, 1000, 1000};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        uint64_t now = 10000 * i;
        assert_int_equal(backoff_failed(&b, now, 100, 1000), expected[i]);
        assert_false(backoff_is_over(&b, now + expected[i] - 1));
        assert_true(backoff_is_over(&b, now + expected[i]));
    }
    backoff_reset(&b);
    assert_true(backoff_is_over(&b, 0));
    assert_int_equal(backoff_failed(&b, 0, 100, 1000), 100);
}

static void test_the_limit_holds_for_the_first_too(void **state)
{
    (void)state;
    struct backoff b = {0};
    assert_int_equal(backoff_failed(&b, 0, 500, 300), 300);
}

static void test_a_lower_limit_after_a_reload(void **state)
{
    (void)state;
    struct backoff b = {0};
    for (unsigned i = 0; i < 8; i++)
        backoff_failed(&b, 0, 100, 60000);
    assert_int_equal(backoff_failed(&b, 0, 100, 1000), 1000);
}

static void test_jitter_stays_within_its_bounds(void **state)
{
    (void)state;
    uint64_t least = UINT64_MAX, most = 0;
    for (uint64_t random = 0; random < 2000; random++) {
        uint64_t wait = backoff_jittered(1000, 60000, random * 7919);
        least = wait < least ? wait : least;
        most = wait > most ? wait : most;
    }
    assert_int_equal(least, 750);
    assert_int_equal(most, 1250);
    assert_int_equal(backoff_jittered(1000, 1000, 500), 1000);
    assert_int_equal(backoff_jittered(1, 1000, 12345), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_wait_is_twice_the_one_before),
        cmocka_unit_test(test_the_limit_holds_for_the_first_too),
        cmocka_unit_test(test_a_lower_limit_after_a_reload),
        cmocka_unit_test(test_jitter_stays_within_its_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
