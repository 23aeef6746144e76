/* What was put in is found until it is taken out, whatever was put in and taken out beside it. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/number_map.h"

enum { KEYS = 64, ROUNDS = 20000 };

/* Some that want the same place, at the end of the slots as well. */
static uint64_t key_of(unsigned i)
{
    return ((uint64_t)(i % 8 + 1) << 32) + i / 8 * 3 + (i % 2 ? 13 : 0);
}

static void test_what_was_put_in_is_found(void **state)
{
    (void)state;
    struct number_map map = {0};
    uint32_t values[KEYS] = {0};
    uint32_t used = 0;
    assert_null(number_map_find(&map, key_of(0)));
    srandom(1);
    for (unsigned round = 1; round <= ROUNDS; round++) {
        unsigned i = (unsigned)random() % KEYS;
        if (values[i] && random() % 2) {
            number_map_remove(&map, key_of(i));
            values[i] = 0;
            used--;
        } else {
            uint32_t *value = number_map_put(&map, key_of(i));
            assert_int_equal(*value, values[i]);
            used += values[i] == 0;
            *value = values[i] = round;
        }
        assert_int_equal(map.used, used);
        for (unsigned k = 0; k < KEYS; k++) {
            const uint32_t *found = number_map_find(&map, key_of(k));
            assert_int_equal(found ? *found : 0, values[k]);
        }
    }
    number_map_clear(&map);
    assert_null(number_map_find(&map, key_of(0)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_put_in_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
