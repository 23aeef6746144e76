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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_they_are_answered_in_order),
        cmocka_unit_test(test_a_mark_that_is_no_first),
        cmocka_unit_test(test_many_that_are_not_answered),
        cmocka_unit_test(test_a_destination_is_new_once_on_a_channel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
