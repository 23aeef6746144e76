#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "drain/marks.h"

static void test_they_are_answered_in_order(void **state)
{
    (void)state;
    struct marks m = {0};
    assert_int_equal(marks_answered(&m), 0);
    assert_int_equal(marks_stuck_at(&m), 0);
    marks_add(&m, 1, true);
    marks_add(&m, 4, true);
    assert_int_equal(marks_stuck_at(&m), 1);
    assert_int_equal(marks_answered(&m), 1);
    assert_int_equal(marks_stuck_at(&m), 4);
    assert_int_equal(marks_answered(&m), 4);
    assert_int_equal(marks_stuck_at(&m), 0);
    assert_int_equal(marks_answered(&m), 0);
    marks_clear(&m);
}

/* One behind all that was sent, of whatever destinations, accuses none of them. */
static void test_a_mark_that_is_no_first(void **state)
{
    (void)state;
    struct marks m = {0};
    marks_add(&m, 3, true);
    marks_add(&m, 9, false);
    assert_int_equal(marks_answered(&m), 3);
    assert_int_equal(marks_stuck_at(&m), 0);
    assert_int_equal(marks_answered(&m), 9);
    marks_clear(&m);
}

static void test_many_that_are_not_answered(void **state)
{
    (void)state;
    struct marks m = {0};
    for (uint64_t tag = 1; tag <= 1000; tag++) {
        marks_add(&m, tag, true);
        if (tag > 100)
            assert_int_equal(marks_answered(&m), tag - 100);
    }
    assert_int_equal(marks_stuck_at(&m), 901);
    assert_true(m.capacity <= 256);
    marks_begin(&m);
    assert_int_equal(marks_stuck_at(&m), 0);
    assert_int_equal(marks_answered(&m), 0);
    marks_clear(&m);
}

static void test_a_destination_is_new_once_on_a_channel(void **state)
{
    (void)state;
    struct marks m = {0};
    assert_true(marks_is_new(&m, 7));
    assert_true(marks_is_new(&m, 8));
    assert_false(marks_is_new(&m, 7));
    marks_begin(&m);
    assert_true(marks_is_new(&m, 7));
    for (uint64_t destination = 100; destination < 70100; destination++)
        assert_true(marks_is_new(&m, destination));
    assert_true(m.known.used <= 65536);
    marks_clear(&m);
}

/* Nothing stands behind the first few, and little behind those that follow on the same channel. */
static void test_what_is_sent_behind_them(void **state)
{
    (void)state;
    struct marks m = {0};
    assert_false(marks_hold(&m, 0));
    uint64_t tag = 0;
    for (unsigned i = 0; i < 8; i++) {
        marks_add(&m, ++tag, true);
        assert_true(marks_hold(&m, tag));
        marks_answered(&m);
        assert_false(marks_hold(&m, tag));
    }
    marks_add(&m, ++tag, true);
    assert_false(marks_hold(&m, tag));
    assert_true(marks_hold(&m, tag + 1));
    for (unsigned i = 0; i < 10000; i++) {
        marks_add(&m, ++tag, true);
        marks_answered(&m);
    }
    assert_int_equal(marks_stuck_at(&m), tag);
    assert_false(marks_hold(&m, tag + 127));
    assert_true(marks_hold(&m, tag + 128));
    marks_begin(&m);
    marks_add(&m, 1, true);
    assert_true(marks_hold(&m, 1));
    marks_clear(&m);
}

/* It asks whether the channel is stuck at all. */
static void test_nothing_is_sent_behind_one_that_is_no_first(void **state)
{
    (void)state;
    struct marks m = {0};
    for (uint64_t tag = 1; tag <= 100; tag++) {
        marks_add(&m, tag, true);
        marks_answered(&m);
    }
    marks_add(&m, 100, false);
    assert_true(marks_hold(&m, 100));
    marks_answered(&m);
    assert_false(marks_hold(&m, 100));
    marks_clear(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_they_are_answered_in_order),
        cmocka_unit_test(test_a_mark_that_is_no_first),
        cmocka_unit_test(test_many_that_are_not_answered),
        cmocka_unit_test(test_a_destination_is_new_once_on_a_channel),
        cmocka_unit_test(test_what_is_sent_behind_them),
        cmocka_unit_test(test_nothing_is_sent_behind_one_that_is_no_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
