/* What is damaged is found, named and left alone; the rest is read. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/spool_home.h"

static struct rejection no_route(void)
{
    return (struct rejection){
        .code = 312, .text = "NO_ROUTE", .text_len = 8, .at_us = 1700000000000001};
}

/* Flips each byte of a stored value in turn: its message is reported, the others are read. */
static void assert_flips_are_found(struct home *home, const char *database, const void *key,
                                   size_t key_len, size_t step)
{
    struct backdoor door = backdoor_open(home, database);
    size_t len;
    uint8_t *value = backdoor_get(&door, key, key_len, &len);
    backdoor_close(&door);
    for (size_t at = 0; at < len; at += at < 8 ? 1 : step) { /* the first 8 are the checksum */
        value[at] ^= 0x10;
        door = backdoor_open(home, database);
        backdoor_put(&door, key, key_len, value, len);
        backdoor_close(&door);
        value[at] ^= 0x10;
        home_open(home);
        struct seen seen = home_read(home, 1, 0);
        assert_int_equal(seen.damaged_count, 1);
        assert_int_equal(seen.damaged[0], 2);
        assert_int_equal(seen.count, 2);
        assert_int_equal(seen.seq[0], 1);
        assert_int_equal(seen.seq[1], 3);
        home_close(home);
    }
    door = backdoor_open(home, database);
    backdoor_put(&door, key, key_len, value, len);
    backdoor_close(&door);
    free(value);
    home_open(home);
    assert_int_equal(home_read(home, 1, 0).count, 3);
}

static void test_flips_in_a_record(void **state)
{
    struct home *home = *state;
    uint8_t key[RECORD_KEY_BYTES];
    home_fill(home, 3, 4);
    home_close(home);
    record_key(key, 2);
    assert_flips_are_found(home, "q/1", key, sizeof key, 1);
}

static void test_flips_in_a_part(void **state)
{
    struct home *home = *state;
    uint8_t key[RECORD_PART_KEY_BYTES];
    home_fill(home, 3, 10000);
    home_close(home);
    for (uint32_t part = 1; part <= 3; part++) {
        record_part_key(key, 2, part);
        assert_flips_are_found(home, "b/1", key, sizeof key, 509);
        home_close(home);
    }
    home_open(home);
}

static void test_missing_part(void **state)
{
    struct home *home = *state;
    uint8_t key[RECORD_PART_KEY_BYTES];
    uint32_t queue = home_fill(home, 4, 10000);
    home_close(home);
    record_part_key(key, 1, 3); /* the last, the first, one in the middle */
    backdoor_remove(home, "b/1", key, sizeof key);
    record_part_key(key, 2, 1);
    backdoor_remove(home, "b/1", key, sizeof key);
    record_part_key(key, 4, 2);
    backdoor_remove(home, "b/1", key, sizeof key);
    home_open(home);
    struct seen seen = home_read(home, queue, 0);
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.seq[0], 3);
    assert_int_equal(seen.damaged_count, 3);
    assert_int_equal(seen.damaged[2], 4);

    /* It can be deleted none the less. */
    home_begin(home);
    for (uint64_t seq = 1; seq <= 4; seq++)
        assert_int_equal(store_delete(home->store, queue, seq, &home->failure), STATUS_OK);
    home_commit(home);
    assert_int_equal(home_queue(home, queue).messages, 0);
    assert_int_equal(home_queue(home, queue).bytes, 0);
}

static void test_damaged_record_stays(void **state)
{
    struct home *home = *state;
    struct rejection rejection = no_route();
    uint8_t key[RECORD_KEY_BYTES];
    uint32_t queue = home_fill(home, 2, 10);
    home_close(home);
    record_key(key, 1);
    backdoor_flip(home, "q/1", key, sizeof key);
    home_open(home);
    home_begin(home);
    assert_int_equal(store_delete(home->store, queue, 1, &home->failure), STATUS_INVALID);
    assert_non_null(strstr(home->failure.text, "message 1 is damaged"));
    assert_int_equal(store_reject(home->store, queue, 1, &rejection, &home->failure),
                     STATUS_INVALID);
    assert_int_equal(store_delete(home->store, queue, 2, &home->failure), STATUS_OK);
    home_commit(home);
    home_reopen(home);
    struct seen seen = home_read(home, queue, 0);
    assert_int_equal(seen.count, 0);
    assert_int_equal(seen.damaged_count, 1);
    assert_int_equal(home_queue(home, queue).messages, 1);
}

static void test_damaged_queue(void **state)
{
    struct home *home = *state;
    static const uint8_t id[] = {0, 0, 0, 1};
    home_fill(home, 1, 10);
    home_close(home);
    struct backdoor door = backdoor_open(home, "queues");
    size_t len;
    uint8_t *value = backdoor_get(&door, id, sizeof id, &len);
    backdoor_put(&door, id, sizeof id, value, len - 1);
    free(value);
    backdoor_close(&door);
    assert_int_equal(home_try_open(home, HOME_MAX_SIZE), STATUS_DAMAGED);
}

/* An entry has no checksum: its counters are held against what LMDB counts. */
static void test_counters_that_are_wrong(void **state)
{
    struct home *home = *state;
    static const uint8_t id[] = {0, 0, 0, 1};
    struct rejection why = {.code = 404, .text = "NOT_FOUND", .text_len = 9, .at_us = 1};
    for (size_t at = 8; at < 32; at += 8) { /* messages, bytes, rejected */
        uint32_t queue = home_fill(home, 5, 100);
        struct store_queue before = home_queue(home, queue);
        home_begin(home);
        assert_int_equal(store_reject(home->store, queue, before.first_seq, &why, &home->failure),
                         STATUS_OK);
        home_commit(home);
        before = home_queue(home, queue);
        home_close(home);
        struct backdoor door = backdoor_open(home, "queues");
        size_t len;
        uint8_t *value = backdoor_get(&door, id, sizeof id, &len);
        value[at + 3] ^= 0x10; /* 2^36 */
        backdoor_put(&door, id, sizeof id, value, len);
        free(value);
        backdoor_close(&door);
        home_open(home);
        struct store_queue after = home_queue(home, queue);
        assert_int_equal(after.messages, before.messages);
        assert_int_equal(after.bytes, before.bytes);
        assert_int_equal(after.rejected, before.rejected);
        home_begin(home); /* and the right ones are written */
        home_append(home, queue, 100);
        home_commit(home);
        home_reopen(home);
        assert_int_equal(home_queue(home, queue).messages, before.messages + 1);
    }
}

#define WITH_HOME(test) cmocka_unit_test_setup_teardown(test, home_setup, home_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_HOME(test_counters_that_are_wrong), WITH_HOME(test_flips_in_a_record),
        WITH_HOME(test_flips_in_a_part),         WITH_HOME(test_missing_part),
        WITH_HOME(test_damaged_record_stays),    WITH_HOME(test_damaged_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
