/* Destinations that a drain has set aside, without a drain. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "drain/aside.h"

enum { WINDOW = 256 };

static void test_found_by_name_until_removed(void **state)
{
    (void)state;
    struct asides asides = {0};
    for (uint64_t name = 1; name <= 20; name++)
        asides_add(&asides, name, name * 10);
    assert_int_equal(asides_add(&asides, 7, 99)->cursor, 70);
    assert_int_equal(asides.count, 20);
    asides_remove(&asides, asides_find(&asides, 7));
    assert_null(asides_find(&asides, 7));
    assert_int_equal(asides_find(&asides, 20)->cursor, 200);
    aside_is_silent(asides_find(&asides, 20), 0, 10);
    asides_clear(&asides);
    assert_null(asides_find(&asides, 20));
}

static void test_tries_are_of_the_first_that_failed(void **state)
{
    (void)state;
    struct aside a = {.state = ASIDE_TRYING, .cursor = 100};
    assert_int_equal(aside_failed(&a, 50), 1);
    assert_int_equal(a.cursor, 49);
    assert_int_equal(aside_failed(&a, 51), 0); /* behind it: its turn comes */
    assert_int_equal(a.cursor, 49);
    assert_int_equal(aside_failed(&a, 50), 2);
    assert_int_equal(aside_failed(&a, 40), 1); /* an older one is the first now */
    assert_int_equal(a.cursor, 39);
    aside_taken(&a, 40);
    assert_int_equal(aside_failed(&a, 51), 1);
}

static void test_one_at_a_time_then_more(void **state)
{
    (void)state;
    struct aside a = {.state = ASIDE_TRYING};
    assert_int_equal(aside_room(&a, WINDOW), 1);
    a.under_way = 1;
    assert_int_equal(aside_room(&a, WINDOW), 0);
    a.under_way = 0;
    uint32_t last = 1;
    for (uint64_t seq = 1; seq <= 5000; seq++) {
        aside_taken(&a, seq);
        uint32_t room = aside_room(&a, WINDOW);
        assert_true(room >= last && room <= WINDOW / 2);
        last = room;
    }
    assert_int_equal(last, WINDOW / 2);
    assert_int_equal(aside_room(&a, 1), 1);
    aside_failed(&a, 5001);
    assert_int_equal(aside_room(&a, WINDOW), 1);
}

static void test_rests_until_its_time(void **state)
{
    (void)state;
    struct aside a = {.state = ASIDE_TRYING};
    aside_rest(&a, 1000, 200);
    assert_int_equal(aside_room(&a, WINDOW), 0);
    aside_taken(&a, 9); /* of what was under way: it rests all the same */
    assert_int_equal(a.state, ASIDE_RESTING);
    assert_false(aside_wakes(&a, 1199));
    assert_true(aside_wakes(&a, 1200));
    assert_false(aside_wakes(&a, 1201));
    assert_int_equal(aside_room(&a, WINDOW), 1);
}

static void test_silent_until_all_is_answered(void **state)
{
    (void)state;
    struct aside a = {.state = ASIDE_TRYING, .under_way = 3};
    aside_is_silent(&a, 1000, 500);
    assert_int_equal(aside_room(&a, WINDOW), 0);
    assert_false(aside_wakes(&a, 1499));
    a.under_way--;
    aside_taken(&a, 1);
    assert_true(aside_owes(&a)); /* two more, which may never be answered */
    assert_int_equal(aside_room(&a, WINDOW), 0);
    assert_true(aside_wakes(&a, 1500));
    aside_is_silent(&a, 1500, 500);
    a.under_way = 0;
    aside_taken(&a, 3);
    assert_int_equal(a.state, ASIDE_TRYING);
    assert_int_equal(aside_room(&a, WINDOW), 1);
}

static void test_rewinds_no_further_than_asked(void **state)
{
    (void)state;
    struct aside a = {.cursor = 10, .scanned = 12};
    aside_rewind(&a, 11);
    assert_int_equal(a.cursor, 10);
    assert_int_equal(a.scanned, 0);
    aside_rewind(&a, 4);
    assert_int_equal(a.cursor, 3);
}

/* Of some hundred that fall on few places, any come and go. */
static void test_each_is_found(void **state)
{
    (void)state;
    enum { NAMES = 300, TURNS = 5000 };
    struct asides asides = {0};
    bool is_there[NAMES] = {false};
    uint32_t count = 0, random = 1;
    for (unsigned turn = 0; turn < TURNS; turn++) {
        random = random * 1664525 + 1013904223;
        unsigned name = (random >> 16) % NAMES;
        uint64_t destination = (uint64_t)(name / 100) + ((uint64_t)(name + 1) << 32);
        if (is_there[name])
            asides_remove(&asides, asides_find(&asides, destination));
        else
            asides_add(&asides, destination, name);
        count += is_there[name] ? UINT32_MAX : 1; /* modulo 2^32 */
        is_there[name] = !is_there[name];
        assert_int_equal(asides.count, count);
        for (unsigned i = 0; i < NAMES; i++) {
            destination = (uint64_t)(i / 100) + ((uint64_t)(i + 1) << 32);
            const struct aside *a = asides_find(&asides, destination);
            assert_int_equal(a != NULL, is_there[i]);
            assert_true(!a || (a->destination == destination && a->cursor == i));
        }
    }
    asides_clear(&asides);
}

/* But for a destination that has come back from doubt. */
static void test_all_begin_a_new_pass(void **state)
{
    (void)state;
    struct asides asides = {0};
    asides_add(&asides, 1, 50);
    asides_add(&asides, 2, 0);
    asides_begin_pass(&asides, 0);
    assert_int_equal(asides_find(&asides, 1)->cursor, 50);
    for (uint64_t pass = 7; pass < 9; pass++) {
        asides_begin_pass(&asides, pass);
        for (uint64_t destination = 1; destination <= 2; destination++) {
            struct aside *a = asides_find(&asides, destination);
            assert_int_equal(a->cursor, 0);
            a->cursor = 50;
        }
        asides_begin_pass(&asides, pass);
        assert_int_equal(asides_find(&asides, 1)->cursor, 50);
    }
    asides_clear(&asides);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_found_by_name_until_removed),
        cmocka_unit_test(test_each_is_found),
        cmocka_unit_test(test_tries_are_of_the_first_that_failed),
        cmocka_unit_test(test_one_at_a_time_then_more),
        cmocka_unit_test(test_rests_until_its_time),
        cmocka_unit_test(test_silent_until_all_is_answered),
        cmocka_unit_test(test_rewinds_no_further_than_asked),
        cmocka_unit_test(test_all_begin_a_new_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
