/* Records that stay in the spool although RabbitMQ has them. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "drain/remains.h"

enum { MANY = 2000, STEP = 37 }; /* no common factor */

static void test_each_is_one_of_them_once(void **state)
{
    (void)state;
    struct remains r = {0};
    assert_false(remains_have(&r, 1));
    assert_true(remains_add(&r, 5));
    assert_false(remains_add(&r, 5));
    assert_false(remains_have(&r, 4));
    assert_false(remains_have(&r, 6));
    assert_true(remains_add(&r, 7));
    assert_int_equal(r.count, 2);
    assert_true(remains_add(&r, 6)); /* between two */
    assert_int_equal(r.count, 1);
    assert_true(remains_add(&r, 4));
    assert_true(remains_add(&r, 8));
    assert_int_equal(r.count, 1);
    for (uint64_t seq = 4; seq <= 8; seq++) {
        assert_true(remains_have(&r, seq));
        assert_false(remains_add(&r, seq));
    }
    assert_false(remains_have(&r, 3));
    assert_false(remains_have(&r, 9));
    remains_clear(&r);
    assert_false(remains_have(&r, 5));
}

static void test_any_order_comes_to_the_same(void **state)
{
    (void)state;
    struct remains r = {0};
    for (uint64_t i = 0; i < MANY; i++) {
        uint64_t seq = 1 + i * STEP % MANY;
        if (seq % 500 != 0) /* those can be taken out */
            assert_true(remains_add(&r, seq));
    }
    assert_int_equal(r.count, 4);
    for (uint64_t seq = 1; seq <= MANY; seq++)
        assert_int_equal(remains_have(&r, seq), seq % 500 != 0);
    assert_false(remains_have(&r, MANY + 1));
    remains_clear(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_is_one_of_them_once),
        cmocka_unit_test(test_any_order_comes_to_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
