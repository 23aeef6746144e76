/* A spool that has reached spool.max_size: says so, loses nothing, and takes more once there is
 * room. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/spool_home.h"

enum { SMALL_MAX_SIZE = 8 * 1024 * 1024, WINDOW = 256 };

static struct rejection no_route(void)
{
    return (struct rejection){
        .code = 312, .text = "NO_ROUTE", .text_len = 8, .at_us = 1700000000000001};
}

/* Appends to an open transaction until the spool is full; returns how many it took. */
static uint64_t append_until_full(struct home *home, uint32_t queue, size_t body_len)
{
    uint64_t count = 0, seq;
    enum status status;
    while ((status = home_try_append(home, queue, body_len, &seq)) == STATUS_OK)
        count++;
    assert_int_equal(status, STATUS_FULL);
    assert_true(count < SMALL_MAX_SIZE / (body_len + 1));
    return count;
}

static void delete_range(struct home *home, uint32_t queue, uint64_t first, uint64_t count)
{
    for (uint64_t seq = first; count > 0; count--, seq++)
        assert_int_equal(store_delete(home->store, queue, seq, &home->failure), STATUS_OK);
}

static uint32_t open_small(struct home *home)
{
    assert_int_equal(home_try_open(home, SMALL_MAX_SIZE), STATUS_OK);
    home_begin(home);
    uint32_t queue = home_put_queue(home, "shop", "/");
    home_commit(home);
    return queue;
}

static void test_full_and_emptied(void **state)
{
    struct home *home = *state;
    static const size_t sizes[] = {100, 1000, 3000, 20000, 600000};
    uint32_t queue = open_small(home);
    uint64_t next = 1;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        home_begin(home);
        uint64_t count = append_until_full(home, queue, sizes[i]);
        home_commit(home);
        /* what it took is most of what there is */
        assert_true(count * sizes[i] > SMALL_MAX_SIZE / 3);
        assert_int_equal(home_queue(home, queue).messages, count);
        for (uint64_t left = count; left > 0;) { /* as a drain does it */
            uint64_t n = left < WINDOW ? left : WINDOW;
            home_begin(home);
            delete_range(home, queue, next, n);
            home_commit(home);
            next += n;
            left -= n;
        }
        assert_int_equal(home_queue(home, queue).messages, 0);
        assert_int_equal(home_queue(home, queue).bytes, 0);
    }
}

/* What a transaction frees LMDB does not give to the next one: that must not show. */
static void test_room_at_once(void **state)
{
    struct home *home = *state;
    uint32_t queue = open_small(home);
    uint64_t next = 1, first_count = 0;
    for (unsigned round = 0; round < 10; round++) {
        home_begin(home);
        uint64_t count = append_until_full(home, queue, 3000);
        home_commit(home);
        if (round == 0)
            first_count = count;
        assert_true(count > first_count * 9 / 10);
        home_begin(home);
        delete_range(home, queue, next, count);
        home_commit(home);
        next += count;
    }
}

static void test_room_for_one(void **state)
{
    struct home *home = *state;
    uint32_t queue = open_small(home);
    home_begin(home);
    append_until_full(home, queue, 100000);
    home_commit(home);
    for (uint64_t seq = 1; seq <= 10; seq++) {
        home_begin(home);
        delete_range(home, queue, seq, 1);
        home_commit(home);
        home_begin(home);
        home_append(home, queue, 100000);
        home_commit(home);
    }
}

static void test_full_for_one_of_three(void **state)
{
    struct home *home = *state;
    uint64_t seq = 0;
    uint32_t queue = open_small(home);
    home_begin(home);
    home_append(home, queue, 1000);
    assert_int_equal(home_try_append(home, queue, SMALL_MAX_SIZE, &seq), STATUS_FULL);
    assert_non_null(strstr(home->failure.text, "spool.max_size"));
    home_append(home, queue, 20000);
    home_commit(home);
    assert_int_equal(store_sync(home->store, &home->failure), STATUS_OK);
    home_close(home);
    assert_int_equal(home_try_open(home, SMALL_MAX_SIZE), STATUS_OK);
    struct seen seen = home_read(home, queue, 0);
    assert_int_equal(seen.count, 2);
    assert_int_equal(seen.seq[1], 2); /* the one refused took no number */
    assert_int_equal(seen.body_size[1], 20000);
    assert_int_equal(home_queue(home, queue).messages, 2);
}

static void test_full_for_rejected(void **state)
{
    struct home *home = *state;
    struct rejection rejection = no_route();
    struct store_message message = {.kind = RECORD_PUBLISH, .method = text("method")};
    uint64_t seq;
    uint32_t queue = open_small(home);
    home_begin(home);
    uint64_t count = append_until_full(home, queue, 10000);
    while (home_try_append(home, queue, 0, &seq) == STATUS_OK)
        count++;
    assert_int_equal(
        store_append_rejected(home->store, queue, &message, &rejection, &seq, &home->failure),
        STATUS_FULL);
    /* A message that is there can always be moved. */
    for (seq = 1; seq <= 100; seq++)
        assert_int_equal(store_reject(home->store, queue, seq, &rejection, &home->failure),
                         STATUS_OK);
    home_commit(home);
    assert_int_equal(home_queue(home, queue).messages, count - 100);
    assert_int_equal(home_queue(home, queue).rejected, 100);
}

static void test_usage(void **state)
{
    struct home *home = *state;
    uint64_t empty, full, max;
    uint32_t queue = open_small(home);
    store_usage(home->store, &empty, &max);
    assert_int_equal(max, SMALL_MAX_SIZE);
    assert_true(empty > 0);
    home_begin(home);
    home_append(home, queue, 1000000);
    home_commit(home);
    store_usage(home->store, &full, &max);
    assert_true(full >= empty + 1000000 && full < empty + 1100000);
}

#define WITH_HOME(test) cmocka_unit_test_setup_teardown(test, home_setup, home_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_HOME(test_full_and_emptied),  WITH_HOME(test_room_at_once),
        WITH_HOME(test_room_for_one),      WITH_HOME(test_full_for_one_of_three),
        WITH_HOME(test_full_for_rejected), WITH_HOME(test_usage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
