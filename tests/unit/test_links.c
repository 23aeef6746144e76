#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "upstream/links.h"

enum { MANY = 40 };

static struct links links;
static struct link all[MANY];

static int setup(void **state)
{
    (void)state;
    links_init(&links);
    links.max = 2047;
    for (unsigned i = 0; i < MANY; i++)
        all[i] = (struct link){.leaves_one = true};
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    struct link *link;
    for (uint32_t at = 0; (link = links_next(&links, &at)) != NULL;)
        links_remove(&links, link);
    assert_int_equal(links.count, 0);
    assert_int_equal(links.taking_all, 0);
    assert_int_equal(links.idle_count, 0);
    assert_true(list_empty(&links.idle));
    links_deinit(&links);
    return 0;
}

static void add(unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++)
        assert_true(links_add(&links, &all[i]));
}

static void test_the_lowest_free_number_is_given(void **state)
{
    (void)state;
    add(0, MANY);
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(all[i].channel, i + 1);
        assert_ptr_equal(links_find(&links, (uint16_t)(i + 1)), &all[i]);
    }
    links_remove(&links, &all[6]);
    links_remove(&links, &all[3]);
    assert_null(links_find(&links, 4));
    add(6, 7);
    assert_int_equal(all[6].channel, 4);
    add(3, 4);
    assert_int_equal(all[3].channel, 7);
}

static void test_a_number_that_was_never_given_is_free(void **state)
{
    (void)state;
    assert_null(links_find(&links, 0));
    assert_null(links_find(&links, UINT16_MAX));
    add(0, 1);
    assert_null(links_find(&links, 0));
    assert_null(links_find(&links, UINT16_MAX));
}

static void test_the_last_number_is_a_drains(void **state)
{
    (void)state;
    links.max = 3;
    add(0, 2);
    assert_false(links_have_room(&links, true));
    assert_false(links_add(&links, &all[2]));
    all[2].leaves_one = false;
    add(2, 3);
    assert_false(links_have_room(&links, false));
    /* The drain has its own: what becomes free is anybody's. */
    links_remove(&links, &all[0]);
    assert_true(links_have_room(&links, true));
    /* And kept again, once it has gone. */
    links_remove(&links, &all[2]);
    add(0, 1);
    assert_false(links_have_room(&links, true));
    assert_true(links_have_room(&links, false));
}

static void test_the_only_number_is_anybodys(void **state)
{
    (void)state;
    links.max = 1;
    add(0, 1);
    assert_false(links_have_room(&links, false));
}

static void test_all_numbers_can_be_taken(void **state)
{
    (void)state;
    links.max = 5;
    for (unsigned i = 0; i < 5; i++)
        all[i].leaves_one = false;
    add(0, 5);
    assert_false(links_add(&links, &all[5]));
}

static void test_idle_ones_come_back_in_turn(void **state)
{
    (void)state;
    assert_true(links_are_idle(&links));
    assert_null(links_take_idle(&links));
    add(0, 3);
    assert_false(links_are_idle(&links));
    links_keep_idle(&links, &all[2]);
    links_keep_idle(&links, &all[0]);
    assert_true(link_is_idle(&all[0]));
    assert_false(link_is_idle(&all[1]));
    assert_false(links_are_idle(&links));
    links_keep_idle(&links, &all[1]);
    assert_true(links_are_idle(&links));
    assert_ptr_equal(links_take_idle(&links), &all[2]);
    assert_false(link_is_idle(&all[2]));
    links_remove(&links, &all[0]); /* also while it is idle */
    assert_int_equal(links.idle_count, 1);
    assert_ptr_equal(links_take_idle(&links), &all[1]);
    assert_null(links_take_idle(&links));
}

static void test_links_may_be_removed_while_they_are_walked(void **state)
{
    (void)state;
    add(0, 20);
    links_remove(&links, &all[9]);
    unsigned seen = 0;
    struct link *link;
    for (uint32_t at = 0; (link = links_next(&links, &at)) != NULL; seen++)
        links_remove(&links, link);
    assert_int_equal(seen, 19);
    assert_int_equal(links.count, 0);
}

static void test_a_number_is_handed_over(void **state)
{
    (void)state;
    add(0, 2);
    links_hand_over(&links, &all[0], &all[2]);
    assert_ptr_equal(links_find(&links, 1), &all[2]);
    add(0, 1);
    assert_int_equal(all[0].channel, 3);
    links_remove(&links, &all[2]);
    assert_null(links_find(&links, 1));
    assert_int_equal(links.count, 2);
}

int main(void)
{
#define WITH_LINKS(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_LINKS(test_a_number_is_handed_over),
        WITH_LINKS(test_the_lowest_free_number_is_given),
        WITH_LINKS(test_a_number_that_was_never_given_is_free),
        WITH_LINKS(test_the_last_number_is_a_drains),
        WITH_LINKS(test_the_only_number_is_anybodys),
        WITH_LINKS(test_all_numbers_can_be_taken),
        WITH_LINKS(test_idle_ones_come_back_in_turn),
        WITH_LINKS(test_links_may_be_removed_while_they_are_walked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
