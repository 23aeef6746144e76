/* The set of declarations that wait. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "drain/declared.h"

enum { MANY = 5000 };

static uint64_t hash_of(unsigned n)
{
    return declared_hash((const uint8_t *)&n, sizeof n);
}

static void test_in_until_taken_out(void **state)
{
    (void)state;
    struct declared d = {0};
    assert_false(declared_has(&d, hash_of(1)));
    declared_remove(&d, hash_of(1));
    for (unsigned n = 0; n < MANY; n++) {
        declared_add(&d, hash_of(n));
        declared_add(&d, hash_of(n)); /* once is enough */
    }
    assert_int_equal(declared_count(&d), MANY);
    for (unsigned n = 0; n < MANY; n += 2)
        declared_remove(&d, hash_of(n));
    for (unsigned n = 0; n < MANY; n++)
        assert_int_equal(declared_has(&d, hash_of(n)), n % 2);
    assert_false(declared_has(&d, hash_of(MANY)));
    for (unsigned n = 1; n < MANY; n += 2)
        declared_remove(&d, hash_of(n));
    assert_int_equal(declared_count(&d), 0);
    assert_null(d.hashes.slots);
}

/* All of them want the same place. */
static void test_neighbours_are_found_when_one_goes(void **state)
{
    (void)state;
    for (unsigned gone = 1; gone <= 6; gone++) {
        struct declared d = {0};
        for (uint64_t n = 1; n <= 6; n++)
            declared_add(&d, n << 32 | 15);
        declared_remove(&d, (uint64_t)gone << 32 | 15);
        for (uint64_t n = 1; n <= 6; n++)
            assert_int_equal(declared_has(&d, n << 32 | 15), n != gone);
        declared_clear(&d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_until_taken_out),
        cmocka_unit_test(test_neighbours_are_found_when_one_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
