/* What came in, without a socket. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net/in_buffer.h"

static struct slab *shared;

static int tear_down(void **state)
{
    (void)state;
    assert_int_equal(shared->refs, 1); /* all buffers have let go */
    slab_unref(shared);
    shared = NULL;
    slab_trim();
    return 0;
}

static void put(struct in_buffer *in, char letter, size_t len)
{
    assert_true(in_buffer_make_room(in, &shared));
    assert_true(in_buffer_room(in) >= len);
    memset(in->end, letter, len);
    in_buffer_got(in, len);
}

/* These bytes are there, of that letter. */
static void assert_has(const struct in_buffer *in, char letter, size_t len)
{
    assert_int_equal(in_buffer_len(in), len);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(in->begin[i], letter);
}

static void test_small_reads_share_a_slab(void **state)
{
    (void)state;
    struct in_buffer a = {0}, b = {0};
    put(&a, 'a', 100);
    put(&b, 'b', 100);
    assert_ptr_equal(a.slab, shared);
    assert_ptr_equal(b.begin, a.end);
    put(&a, 'a', 100); /* b stands behind its bytes: they move */
    assert_has(&a, 'a', 200);
    assert_has(&b, 'b', 100);
    assert_true(a.begin > b.begin);
    in_buffer_consume(&a, 200);
    assert_null(a.slab);
    in_buffer_consume(&b, 99);
    assert_has(&b, 'b', 1);
    in_buffer_clear(&b);
}

static void test_a_large_unit_has_a_slab_of_its_own(void **state)
{
    (void)state;
    struct in_buffer in = {0};
    put(&in, 'a', 1000);
    in.expected = SLAB_BYTES + 1;
    put(&in, 'a', SLAB_BYTES + 1 - 1000); /* there is room for all of it */
    assert_ptr_not_equal(in.slab, shared);
    assert_has(&in, 'a', SLAB_BYTES + 1);
    const uint8_t *at = in.begin;
    assert_int_equal(in_buffer_room(&in), 0);
    put(&in, 'a', 1); /* more was read than the owner has taken */
    assert_ptr_not_equal(in.begin, at);
    assert_has(&in, 'a', SLAB_BYTES + 2);
    in_buffer_consume(&in, SLAB_BYTES + 2);
    assert_null(in.slab);
    assert_int_equal(in.expected, 0);
}

/* Bytes that somebody holds stay where they are while others are read. */
static void test_held_bytes_are_not_overwritten(void **state)
{
    (void)state;
    struct in_buffer in = {0};
    put(&in, 'a', 1000);
    struct span held = span_of(in.slab, in.begin, 1000);
    in_buffer_consume(&in, 1000);
    for (int i = 0; i < 1000; i++) {
        put(&in, 'b', 1000);
        in_buffer_consume(&in, 1000);
    }
    for (size_t i = 0; i < held.len; i++)
        assert_int_equal(held.at[i], 'a');
    span_clear(&held);
}

static void test_room_that_nobody_filled(void **state)
{
    (void)state;
    struct in_buffer in = {0};
    assert_true(in_buffer_make_room(&in, &shared));
    assert_non_null(in.slab);
    in_buffer_rest(&in);
    assert_null(in.slab);
    put(&in, 'a', 1);
    in_buffer_rest(&in);
    assert_has(&in, 'a', 1);
    in_buffer_clear(&in);
    in_buffer_consume(&in, 0); /* of none */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_small_reads_share_a_slab, tear_down),
        cmocka_unit_test_teardown(test_a_large_unit_has_a_slab_of_its_own, tear_down),
        cmocka_unit_test_teardown(test_held_bytes_are_not_overwritten, tear_down),
        cmocka_unit_test_teardown(test_room_that_nobody_filled, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
