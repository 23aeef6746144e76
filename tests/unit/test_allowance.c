#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "drain/allowance.h"

/* All that it gives from `now_ms` on, if it is looked at every step_ms. */
static uint64_t taken_in(struct allowance *a, uint32_t rate, uint64_t now_ms, uint64_t span_ms,
                         uint64_t step_ms)
{
    uint64_t taken = 0;
    for (uint64_t at = now_ms; at <= now_ms + span_ms; at += step_ms) {
        allowance_refill(a, rate, at);
        uint32_t left = allowance_left(a);
        allowance_spend(a, left);
        taken += left;
    }
    return taken;
}

static void test_every_rate_is_exact_at_every_step(void **state)
{
    (void)state;
    static const uint32_t rates[] = {1, 3, 4, 5, 20, 1000, 1000000000};
    static const uint64_t steps_ms[] = {1, 100, 250, 1000};
    for (size_t r = 0; r < sizeof rates / sizeof *rates; r++)
        for (size_t s = 0; s < sizeof steps_ms / sizeof *steps_ms; s++) {
            struct allowance a = {0};
            assert_int_equal(taken_in(&a, rates[r], 5000, 60000, steps_ms[s]), rates[r] * 60ULL);
        }
}

static void test_a_pause_saves_one_second(void **state)
{
    (void)state;
    struct allowance a = {0};
    allowance_refill(&a, 5, 1000);
    assert_int_equal(allowance_left(&a), 0);
    allowance_refill(&a, 5, 3600000);
    assert_int_equal(allowance_left(&a), 5);
    allowance_refill(&a, 5, 7200000);
    assert_int_equal(allowance_left(&a), 5);
}

static void test_a_lower_rate_takes_back_what_was_saved(void **state)
{
    (void)state;
    struct allowance a = {0};
    allowance_refill(&a, 1000000000, 1000);
    allowance_refill(&a, 1000000000, 2000);
    assert_int_equal(allowance_left(&a), 1000000000);
    allowance_refill(&a, 2, 2000);
    assert_int_equal(allowance_left(&a), 2);
    allowance_refill(&a, 0, 2250);
    assert_int_equal(allowance_left(&a), 0);
}

static void test_more_spent_than_there_was_is_no_debt(void **state)
{
    (void)state;
    struct allowance a = {0};
    allowance_refill(&a, 10, 1000);
    allowance_refill(&a, 10, 1100);
    allowance_spend(&a, 3);
    assert_int_equal(allowance_left(&a), 0);
    allowance_refill(&a, 10, 1200);
    assert_int_equal(allowance_left(&a), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_rate_is_exact_at_every_step),
        cmocka_unit_test(test_a_pause_saves_one_second),
        cmocka_unit_test(test_a_lower_rate_takes_back_what_was_saved),
        cmocka_unit_test(test_more_spent_than_there_was_is_no_debt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
