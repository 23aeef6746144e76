/* What is in an index is found, what is not is not, and names of one hash are told apart. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/index.h"

enum { MANY = 1000 };

struct thing {
    struct index_node node;
    char name[16];
};

static struct thing *find(const struct index *index, const char *name)
{
    struct index_node *n = index_find(index, index_hash(name, 0));
    while (n && strcmp(((struct thing *)n->owner)->name, name) != 0)
        n = index_next(index, n);
    return n ? n->owner : NULL;
}

static void test_many(void **state)
{
    (void)state;
    static struct thing things[MANY];
    struct index index = {0};
    assert_null(find(&index, "0"));
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(things[i].name, sizeof things[i].name, "%u", i);
        index_add(&index, &things[i].node, index_hash(things[i].name, 0), &things[i]);
    }
    for (unsigned i = 0; i < MANY; i += 2)
        index_remove(&index, &things[i].node);
    for (unsigned i = 0; i < MANY; i++) {
        char name[16];
        snprintf(name, sizeof name, "%u", i);
        assert_ptr_equal(find(&index, name), i % 2 ? &things[i] : NULL);
    }
    for (unsigned i = 1; i < MANY; i += 2)
        index_remove(&index, &things[i].node);
    index_deinit(&index);
}

static void test_one_hash(void **state)
{
    (void)state;
    struct thing a = {.name = "a"}, b = {.name = "b"}, other = {.name = "c"};
    struct index index = {0};
    index_add(&index, &a.node, 5, &a);
    index_add(&index, &other.node, 5 + 16, &other); /* in the same bucket */
    index_add(&index, &b.node, 5, &b);
    struct index_node *first = index_find(&index, 5);
    assert_ptr_equal(first->owner, &a);
    assert_ptr_equal(index_next(&index, first)->owner, &b);
    assert_null(index_next(&index, index_next(&index, first)));
    index_remove(&index, &a.node);
    index_remove(&index, &b.node);
    assert_null(index_find(&index, 5));
    index_remove(&index, &other.node);
    index_deinit(&index);
}

static void test_two_names(void **state)
{
    (void)state;
    assert_int_equal(index_hash("b", index_hash("a", 0)), index_hash("b", index_hash("a", 0)));
    assert_true(index_hash("b", index_hash("a", 0)) != index_hash("a", index_hash("b", 0)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_one_hash),
        cmocka_unit_test(test_two_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
