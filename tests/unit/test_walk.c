/* Where a list can be read again behind damage. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "spool/walk.h"

/* Numbers from 1 to `last`; those up to `bad` cannot be read, and what is behind them all neither,
 * or there is nothing. */
struct list {
    uint64_t bad, last;
    int behind;
};

static int probe(void *arg, uint64_t seq, uint64_t *found)
{
    const struct list *list = arg;
    *found = seq;
    if (seq <= list->bad)
        return MDB_CORRUPTED;
    return seq <= list->last ? 0 : list->behind;
}

static void test_the_few_behind_many_are_found(void **state)
{
    (void)state;
    for (uint64_t bad = 1; bad < 5000; bad += bad < 200 ? 1 : 37)
        for (uint64_t left = 1; left < 200; left += 11) {
            struct list list = {bad, bad + left, MDB_NOTFOUND};
            assert_int_equal(walk_pass_damage(1, probe, &list), bad + 1);
        }
}

static void test_so_are_those_between_two_damages(void **state)
{
    enum { AS_FAR = 3 }; /* a share of the first one's length */
    (void)state;
    for (uint64_t bad = 1; bad < 100000; bad += 1 + bad / 7) {
        struct list list = {bad, bad + 1 + bad / AS_FAR, MDB_CORRUPTED};
        assert_int_equal(walk_pass_damage(1, probe, &list), bad + 1);
    }
}

static void test_nothing_is_behind_it(void **state)
{
    (void)state;
    for (uint64_t bad = 1; bad < 100000; bad += 1 + bad / 7) {
        struct list list = {bad, bad, MDB_NOTFOUND}, all = {bad, bad, MDB_CORRUPTED};
        assert_int_equal(walk_pass_damage(1, probe, &list), 0);
        assert_int_equal(walk_pass_damage(1, probe, &all), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_few_behind_many_are_found),
        cmocka_unit_test(test_so_are_those_between_two_damages),
        cmocka_unit_test(test_nothing_is_behind_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
