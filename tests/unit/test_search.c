#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "drain/search.h"

enum { MOST = 256 };

static struct search begun(void)
{
    struct search s = {0};
    search_begin(&s, MOST);
    return s;
}

static void test_the_whole_window_at_first(void **state)
{
    (void)state;
    struct search s = begun();
    assert_int_equal(search_window(&s, MOST), MOST);
    assert_int_equal(search_window(&s, 10), 10); /* after a reload */
}

/* Which of the records 1 to 256 is bad is found in two steps, each a few at a time. */
static void test_without_a_hint_all_are_sent_few_at_a_time(void **state)
{
    (void)state;
    struct search s = begun();
    search_narrow(&s, 256, 0);
    assert_int_equal(search_window(&s, MOST), 16);
    search_settled(&s, 32);
    assert_int_equal(search_window(&s, MOST), 16);
    search_narrow(&s, 16, 0);
    assert_int_equal(search_window(&s, MOST), 1);
    search_settled(&s, 15);
    assert_int_equal(search_window(&s, MOST), 1);
    search_settled(&s, 1); /* it was one of those that went */
    assert_int_equal(search_window(&s, MOST), MOST);
}

static void test_settling_more_than_the_careful_ones_ends_the_care(void **state)
{
    (void)state;
    struct search s = begun();
    search_narrow(&s, 3, 0);
    search_settled(&s, 5);
    assert_int_equal(s.careful, 0);
    assert_int_equal(search_window(&s, MOST), MOST);
}

static void test_a_hint_is_followed_once(void **state)
{
    (void)state;
    struct search s = begun();
    search_narrow(&s, 100, 7);
    assert_int_equal(s.suspect, 7);
    assert_int_equal(s.careful, 0);
    assert_int_equal(search_window(&s, MOST), MOST);
    search_narrow(&s, 99, 7); /* sent alone, and it is not that one */
    assert_int_equal(s.careful, 99);
    assert_int_equal(search_window(&s, MOST), 16);
    search_narrow(&s, 20, 8); /* another one */
    assert_int_equal(s.suspect, 8);
}

/* Words that point at another one each time help nobody. */
static void test_hints_that_are_wrong_are_given_up(void **state)
{
    (void)state;
    struct search s = begun();
    for (uint32_t i = 1; i <= 3; i++) {
        search_narrow(&s, 100 - i, i);
        assert_int_equal(s.suspect, i);
        assert_int_equal(s.careful, 0);
    }
    search_narrow(&s, 96, 4);
    assert_int_equal(search_window(&s, MOST), 16);
    search_narrow(&s, 16, 5);
    assert_int_equal(search_window(&s, MOST), 1);
    search_failed(&s, 9);
    search_found(&s);
    search_narrow(&s, 50, 10); /* of another one */
    assert_int_equal(s.suspect, 10);
    assert_int_equal(s.careful, 0);
}

static void test_the_window_follows_what_went_well(void **state)
{
    (void)state;
    static const struct {
        uint32_t fine, window;
    } after[] = {{0, 1}, {1, 1}, {5, 5}, {16, 16}, {200, 16}};
    for (size_t i = 0; i < sizeof after / sizeof *after; i++) {
        struct search s = begun();
        search_passed(&s, after[i].fine, MOST);
        assert_int_equal(search_failed(&s, 9), 1);
        search_found(&s);
        assert_int_equal(search_window(&s, MOST), after[i].window);
    }
}

static void test_the_window_doubles_up_to_the_limit(void **state)
{
    (void)state;
    struct search s = begun();
    search_failed(&s, 1);
    uint32_t windows[12], count = 0;
    for (uint32_t i = 0; i < 12; i++) {
        windows[count++] = search_window(&s, MOST);
        search_passed(&s, search_window(&s, MOST), MOST);
    }
    static const uint32_t expected[12] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256, 256};
    assert_memory_equal(windows, expected, sizeof expected);
}

static void test_half_a_window_is_not_enough(void **state)
{
    (void)state;
    struct search s = begun();
    search_passed(&s, 16, MOST);
    search_failed(&s, 1);
    search_passed(&s, 15, MOST);
    assert_int_equal(search_window(&s, MOST), 16);
    search_passed(&s, 1, MOST);
    assert_int_equal(search_window(&s, MOST), 32);
}

static void test_tries_are_of_one_record(void **state)
{
    (void)state;
    struct search s = begun();
    assert_int_equal(search_failed(&s, 5), 1);
    search_again(&s, 5);
    assert_int_equal(s.suspect, 5);
    assert_int_equal(search_failed(&s, 5), 2);
    assert_int_equal(search_failed(&s, 6), 1);
    assert_int_equal(search_failed(&s, 5), 1);
    search_given_up(&s);
    assert_int_equal(s.failing, 0);
    assert_int_equal(search_failed(&s, 5), 1);
}

/* It outlives the drain whose connection it has ended. */
static void test_a_new_drain_knows_what_the_last_one_found(void **state)
{
    (void)state;
    struct search s = begun();
    search_narrow(&s, 40, 0);
    search_failed(&s, 3);
    search_begin(&s, MOST);
    assert_int_equal(search_window(&s, MOST), 16);
    assert_int_equal(search_failed(&s, 3), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_whole_window_at_first),
        cmocka_unit_test(test_without_a_hint_all_are_sent_few_at_a_time),
        cmocka_unit_test(test_settling_more_than_the_careful_ones_ends_the_care),
        cmocka_unit_test(test_a_hint_is_followed_once),
        cmocka_unit_test(test_hints_that_are_wrong_are_given_up),
        cmocka_unit_test(test_the_window_follows_what_went_well),
        cmocka_unit_test(test_the_window_doubles_up_to_the_limit),
        cmocka_unit_test(test_half_a_window_is_not_enough),
        cmocka_unit_test(test_tries_are_of_one_record),
        cmocka_unit_test(test_a_new_drain_knows_what_the_last_one_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
