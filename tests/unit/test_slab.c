/* Slabs and spans, handles, lists: what everything else stands on. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/handles.h"
#include "base/list.h"
#include "base/slab.h"

/* Whether it ends in a broken invariant, in a process of its own. */
static void assert_aborts(void (*act)(void))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(STDERR_FILENO);
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(SIGABRT, SIG_DFL);
        act();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void test_capacity(void **state)
{
    (void)state;
    struct slab *small = slab_new(1), *large = slab_new(SLAB_BYTES + 1);
    assert_int_equal(small->capacity, 1);
    assert_int_equal(large->capacity, SLAB_BYTES + 1);
    assert_int_equal(small->refs, 1);
    assert_int_equal(small->used, 0);
    memset(small->data, 1, small->capacity);
    memset(large->data, 1, large->capacity);
    slab_unref(small);
    slab_unref(large);
    assert_null(slab_new(SIZE_MAX));
    slab_trim();
}

static void test_references(void **state)
{
    (void)state;
    struct slab *slab = slab_new(SLAB_BYTES);
    assert_ptr_equal(slab_ref(slab), slab);
    slab->data[7] = 'x';
    struct span span = span_of(slab, slab->data + 7, 1);
    assert_int_equal(slab->refs, 3);
    slab_unref(slab);
    slab_unref(slab);
    assert_int_equal(slab->refs, 1);
    assert_int_equal(*span.at, 'x');
    span_clear(&span);
    assert_null(span.slab);
    assert_null(span.at);
    span_clear(&span); /* nothing to give back any more */
    slab_trim();
}

static void test_span_limits(void **state)
{
    (void)state;
    struct slab *slab = slab_new(SLAB_BYTES);
    struct span all = span_of(slab, slab->data, SLAB_BYTES);
    struct span none = span_of(slab, slab->data + SLAB_BYTES, 0);
    assert_int_equal(all.len, SLAB_BYTES);
    assert_int_equal(none.len, 0);
    span_clear(&all);
    span_clear(&none);
    slab_unref(slab);
    slab_trim();
}

static void span_too_long(void)
{
    struct slab *slab = slab_new(SLAB_BYTES);
    span_of(slab, slab->data + 1, SLAB_BYTES);
}

static void unref_twice(void)
{
    struct slab *slab = slab_new(SLAB_BYTES);
    slab_unref(slab);
    slab_unref(slab);
}

static void test_slab_misuse(void **state)
{
    (void)state;
    assert_aborts(span_too_long);
    assert_aborts(unref_twice);
}

static void test_live_bytes(void **state)
{
    (void)state;
    assert_int_equal(slab_live_bytes(), 0);
    struct slab *small = slab_new(100), *ordinary = slab_new(SLAB_BYTES);
    struct slab *of_thread = slab_new_on_thread(7);
    assert_int_equal(slab_live_bytes(), SLAB_BYTES + 107);
    slab_ref(ordinary);
    assert_int_equal(slab_share(ordinary), SLAB_BYTES / 2);
    slab_unref(ordinary);
    slab_unref(ordinary);
    slab_unref(of_thread);
    assert_int_equal(slab_live_bytes(), 100); /* what is only kept for the next burst is not live */
    ordinary = slab_new(SLAB_BYTES);
    assert_int_equal(slab_live_bytes(), SLAB_BYTES + 100);
    slab_unref(ordinary);
    slab_unref(small);
    assert_int_equal(slab_live_bytes(), 0);
    assert_int_equal(slab_share(NULL), 0);
    slab_trim();
}

/* An ordinary slab is used again, as new; a larger one is not kept. */
static void test_recycling(void **state)
{
    (void)state;
    struct slab *first = slab_new(SLAB_BYTES);
    first->used = 99;
    slab_ref(first);
    slab_unref(first);
    slab_unref(first);
    struct slab *again = slab_new(SLAB_BYTES);
    assert_ptr_equal(again, first);
    assert_int_equal(again->refs, 1);
    assert_int_equal(again->used, 0);
    struct slab *other = slab_new(SLAB_BYTES);
    assert_ptr_not_equal(other, again);
    slab_unref(other);
    slab_unref(again);

    struct slab *burst[200];
    for (size_t i = 0; i < 200; i++)
        burst[i] = slab_new(SLAB_BYTES);
    for (size_t i = 0; i < 200; i++)
        for (size_t j = 0; j < i; j++)
            assert_ptr_not_equal(burst[i], burst[j]);
    for (size_t i = 0; i < 200; i++)
        slab_unref(burst[i]);
    slab_trim();
    slab_trim(); /* none is left; the leak checker knows of the others */
}

static void test_handles(void **state)
{
    (void)state;
    int objects[3];
    uint64_t a = handles_add(&objects[0]), b = handles_add(&objects[1]);
    assert_int_not_equal(a, 0);
    assert_int_not_equal(a, b);
    assert_ptr_equal(handles_get(a), &objects[0]);
    assert_ptr_equal(handles_get(b), &objects[1]);
    assert_null(handles_get(0));
    assert_null(handles_get(UINT64_MAX));
    assert_null(handles_get(1000));

    handles_remove(a);
    assert_null(handles_get(a));
    uint64_t c = handles_add(&objects[2]);
    assert_int_equal((uint32_t)c, (uint32_t)a); /* its slot, but not its id */
    assert_int_not_equal(c, a);
    assert_null(handles_get(a));
    assert_ptr_equal(handles_get(c), &objects[2]);
    handles_remove(b);
    handles_remove(c);
    handles_deinit();
    assert_null(handles_get(c));
}

static void test_many_handles(void **state)
{
    (void)state;
    static char objects[1000];
    uint64_t ids[1000];
    for (size_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < 1000; i++)
            ids[i] = handles_add(&objects[i]);
        for (size_t i = 0; i < 1000; i += 2)
            handles_remove(ids[i]);
        for (size_t i = 0; i < 1000; i++)
            assert_ptr_equal(handles_get(ids[i]), i % 2 ? &objects[i] : NULL);
        for (size_t i = 1; i < 1000; i += 2)
            handles_remove(ids[i]);
    }
    handles_deinit();
}

static void remove_twice(void)
{
    int object;
    uint64_t id = handles_add(&object);
    handles_remove(id);
    handles_remove(id);
}

static void deinit_with_one_live(void)
{
    int object;
    handles_add(&object);
    handles_deinit();
}

static void add_nothing(void)
{
    handles_add(NULL);
}

static void test_handles_misuse(void **state)
{
    (void)state;
    assert_aborts(remove_twice);
    assert_aborts(deinit_with_one_live);
    assert_aborts(add_nothing);
}

struct item {
    int number;
    struct list node;
};

static void test_list(void **state)
{
    (void)state;
    struct list head;
    struct item items[3] = {{.number = 0}, {.number = 1}, {.number = 2}};
    list_init(&head);
    assert_true(list_empty(&head));
    assert_null(list_first(&head));
    for (int i = 0; i < 3; i++) {
        list_init(&items[i].node);
        list_append(&head, &items[i].node);
    }
    assert_false(list_empty(&head));
    int expected = 0;
    for (struct list *at = head.next; at != &head; at = at->next)
        assert_int_equal(LIST_ENTRY(at, struct item, node)->number, expected++);
    assert_int_equal(expected, 3);

    list_remove(&items[1].node);
    assert_ptr_equal(items[0].node.next, &items[2].node);
    assert_ptr_equal(items[2].node.prev, &items[0].node);
    assert_true(list_empty(&items[1].node));
    list_remove(&items[1].node); /* harmless */
    list_remove(&items[0].node);
    assert_ptr_equal(LIST_ENTRY(list_first(&head), struct item, node), &items[2]);
    list_remove(&items[2].node);
    assert_true(list_empty(&head));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_capacity),       cmocka_unit_test(test_references),
        cmocka_unit_test(test_span_limits),    cmocka_unit_test(test_slab_misuse),
        cmocka_unit_test(test_live_bytes),     cmocka_unit_test(test_recycling),
        cmocka_unit_test(test_handles),        cmocka_unit_test(test_many_handles),
        cmocka_unit_test(test_handles_misuse), cmocka_unit_test(test_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
