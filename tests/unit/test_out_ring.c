/* What is to be sent, without a socket. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/out_ring.h"

enum { SLABS = 3, SPANS_MAX = 200 };

static struct slab *slabs[SLABS];

static int set_up(void **state)
{
    (void)state;
    for (size_t i = 0; i < SLABS; i++) {
        slabs[i] = slab_new(4096);
        for (size_t at = 0; at < 4096; at++)
            slabs[i]->data[at] = (uint8_t)('a' + (at + i) % 26);
    }
    return 0;
}

/* Nobody holds a part of them any more. */
static int tear_down(void **state)
{
    (void)state;
    for (size_t i = 0; i < SLABS; i++) {
        assert_int_equal(slabs[i]->refs, 1);
        slab_unref(slabs[i]);
    }
    return 0;
}

static void test_runs_join_what_they_follow(void **state)
{
    (void)state;
    struct out_ring ring = {0};
    out_ring_add(&ring, slabs[0], slabs[0]->data, 10, true);
    out_ring_add(&ring, slabs[0], slabs[0]->data + 10, 5, true);
    assert_int_equal(ring.count, 1);
    out_ring_add(&ring, slabs[0], slabs[0]->data + 15, 5, false); /* somebody writes the others */
    assert_int_equal(ring.count, 2);
    out_ring_add(&ring, slabs[0], slabs[0]->data + 21, 5, true); /* a byte lies between */
    out_ring_add(&ring, slabs[1], slabs[1]->data + 26, 5, true); /* of another slab */
    assert_int_equal(ring.count, 4);
    assert_int_equal(ring.bytes, 30);
    out_ring_clear(&ring);
    assert_int_equal(ring.count, 0);
    assert_int_equal(ring.bytes, 0);
}

static void test_gathers_as_many_as_there_is_room_for(void **state)
{
    (void)state;
    struct out_ring ring = {0};
    uv_buf_t bufs[4];
    size_t total;
    assert_int_equal(out_ring_gather(&ring, bufs, 4, &total), 0);
    assert_int_equal(total, 0);
    for (size_t i = 0; i < 5; i++)
        out_ring_add(&ring, slabs[0], slabs[0]->data + 100 * i, 10 + i, true);
    assert_int_equal(out_ring_gather(&ring, bufs, 4, &total), 4);
    assert_int_equal(total, 10 + 11 + 12 + 13);
    assert_ptr_equal(bufs[3].base, slabs[0]->data + 300);
    out_ring_sent(&ring, 10 + 11 + 5); /* in the middle of the third */
    assert_int_equal(out_ring_gather(&ring, bufs, 4, &total), 3);
    assert_ptr_equal(bufs[0].base, slabs[0]->data + 205);
    assert_int_equal(bufs[0].len, 7);
    assert_int_equal(total, ring.bytes);
    out_ring_clear(&ring);
}

static void test_front_is_one_piece(void **state)
{
    (void)state;
    struct out_ring ring = {0};
    uint8_t scratch[8];
    const uint8_t *at;
    out_ring_add(&ring, slabs[0], slabs[0]->data, 3, true);
    assert_int_equal(out_ring_front(&ring, scratch, 8, &at), 3);
    assert_ptr_equal(at, slabs[0]->data); /* alone: not copied */
    out_ring_add(&ring, slabs[1], slabs[1]->data, 3, true);
    out_ring_add(&ring, slabs[2], slabs[2]->data, 9, true);
    assert_int_equal(out_ring_front(&ring, scratch, 8, &at), 8);
    assert_ptr_equal(at, scratch);
    assert_memory_equal(scratch, "abcbcdcd", 8);
    out_ring_sent(&ring, 8);
    assert_int_equal(out_ring_front(&ring, scratch, 4, &at), 4);
    assert_ptr_equal(at, slabs[2]->data + 2); /* long enough: not copied */
    out_ring_clear(&ring);
}

/* A ring that has wrapped grows in its order; all that it took for a burst is given back. */
static void test_grows_in_order(void **state)
{
    (void)state;
    struct out_ring ring = {0};
    uv_buf_t bufs[SPANS_MAX];
    size_t total, added = 0, sent = 0;
    for (; added < 6; added++)
        out_ring_add(&ring, slabs[0], slabs[0]->data + 2 * added, 1, true);
    for (; sent < 5; sent++)
        out_ring_sent(&ring, 1);
    for (; added < SPANS_MAX; added++)
        out_ring_add(&ring, slabs[0], slabs[0]->data + 2 * added, 1, true);
    assert_true(ring.capacity > 64);
    assert_int_equal(out_ring_gather(&ring, bufs, SPANS_MAX, &total), SPANS_MAX - sent);
    for (size_t i = 0; i < SPANS_MAX - sent; i++)
        assert_ptr_equal(bufs[i].base, slabs[0]->data + 2 * (sent + i));
    out_ring_sent(&ring, ring.bytes);
    assert_null(ring.spans);
    out_ring_add(&ring, slabs[1], slabs[1]->data, 1, true);
    out_ring_sent(&ring, 1);
    assert_non_null(ring.spans); /* a few places are kept */
    out_ring_clear(&ring);
}

static void test_share(void **state)
{
    (void)state;
    struct out_ring ring = {0};
    assert_int_equal(out_ring_share(&ring), 0);
    out_ring_add(&ring, slabs[0], slabs[0]->data, 1, true); /* beside the test's own */
    assert_int_equal(out_ring_share(&ring), 4096 / 2);
    out_ring_add(&ring, slabs[1], slabs[1]->data, 1, true);
    assert_int_equal(out_ring_share(&ring), 4096);
    out_ring_clear(&ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_runs_join_what_they_follow, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_gathers_as_many_as_there_is_room_for, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_front_is_one_piece, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_grows_in_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_share, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
