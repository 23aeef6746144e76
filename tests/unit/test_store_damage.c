/* What is damaged is found, named and left alone; the rest is read. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/spool_home.h"
#include "amqpbuf/spool_reader.h"
#include "spool/directory.h"
#include "spool/store_internal.h"

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
    record_key(key, 1, 2);
    assert_flips_are_found(home, "messages", key, sizeof key, 1);
}

static void test_flips_in_a_part(void **state)
{
    struct home *home = *state;
    uint8_t key[RECORD_PART_KEY_BYTES];
    home_fill(home, 3, 10000);
    home_close(home);
    for (uint32_t part = 1; part <= 3; part++) {
        record_part_key(key, 1, 2, part);
        assert_flips_are_found(home, "parts", key, sizeof key, 509);
        home_close(home);
    }
    home_open(home);
}

/* All of data.mdb. */
static uint8_t *read_data(int fd, size_t *len)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    *len = (size_t)st.st_size;
    uint8_t *bytes = malloc(*len);
    ENSURE(bytes);
    assert_int_equal(pread(fd, bytes, *len, 0), st.st_size);
    return bytes;
}

static bool is_on_a_leaf(const uint8_t *bytes, const uint8_t *at)
{
    enum { PAGE = 4096, AT_FLAGS = 10, FLAG_LEAF = 2 };
    return bytes[(size_t)(at - bytes) / PAGE * PAGE + AT_FLAGS] == FLAG_LEAF;
}

/* As it lies on its page: LMDB knows nothing of it. */
static void write_with_key(int fd, const uint8_t *bytes, size_t len, const uint8_t *key,
                           const uint8_t *other)
{
    const uint8_t *at = bytes;
    assert_int_equal(pwrite(fd, bytes, len, 0), (ssize_t)len);
    while ((at = memmem(at, len - (size_t)(at - bytes), key, RECORD_KEY_BYTES)) != NULL) {
        if (is_on_a_leaf(bytes, at))
            assert_int_equal(pwrite(fd, other, RECORD_KEY_BYTES, at - bytes), RECORD_KEY_BYTES);
        at += RECORD_KEY_BYTES;
    }
}

/* A message that says it is another queue's, or behind those that follow, or before those that came
 * first. */
static void test_flips_in_a_key(void **state)
{
    enum { MESSAGES = 60, ON_A_PAGE = 12, FROM = 24, BITS = 8 * RECORD_KEY_BYTES };
    struct home *home = *state;
    uint8_t key[RECORD_KEY_BYTES], other[RECORD_KEY_BYTES];
    char name[128];
    size_t len;
    home_fill(home, MESSAGES, 300);
    home_close(home);
    snprintf(name, sizeof name, "%s/data.mdb", home->spool);
    int fd = open(name, O_RDWR);
    assert_true(fd >= 0);
    uint8_t *bytes = read_data(fd, &len);
    for (unsigned at = 0; at < ON_A_PAGE * BITS; at += 5) { /* any place, any bit */
        unsigned bit = at % BITS;
        record_key(key, 1, FROM + at / BITS);
        memcpy(other, key, sizeof key);
        other[bit / 8] ^= (uint8_t)(1u << bit % 8);
        write_with_key(fd, bytes, len, key, other);
        home_open(home);
        struct seen seen = home_read(home, 1, 0);
        assert_in_range(seen.count, MESSAGES - ON_A_PAGE, MESSAGES - 1);
        assert_int_equal(seen.seq[0], 1);
        assert_int_equal(seen.seq[seen.count - 1], MESSAGES);
        assert_true(seen.damaged_count > 0);
        home_close(home);
    }
    free(bytes);
    close(fd);
}

/* One more node at the end of a leaf: a damaged record with the number behind its last one. Returns
 * false if the page has no room for it, or is none of records. */
static bool add_a_node(uint8_t *page)
{
    enum { HEAD = 16, AT_FLAGS = 10, AT_LOWER = 12, AT_UPPER = 14, FLAG_LEAF = 2, DATA = 4 };
    enum { AT_KEY = 8, NODE = AT_KEY + RECORD_KEY_BYTES + DATA };
    uint16_t lower, upper, last, key_len = RECORD_KEY_BYTES, data_len = DATA;
    memcpy(&lower, page + AT_LOWER, sizeof lower);
    memcpy(&upper, page + AT_UPPER, sizeof upper);
    if (page[AT_FLAGS] != FLAG_LEAF || lower <= HEAD || upper < lower + NODE + 2)
        return false;
    memcpy(&last, page + lower - 2, sizeof last);
    const uint8_t *before = page + last;
    if (before[AT_KEY - 2] != RECORD_KEY_BYTES || record_key_queue(before + AT_KEY) != 1)
        return false;
    uint16_t at = (uint16_t)((upper - NODE) & ~1);
    memset(page + at, 0, NODE);
    memcpy(page + at, &data_len, sizeof data_len);
    memcpy(page + at + AT_KEY - 2, &key_len, sizeof key_len);
    record_key(page + at + AT_KEY, 1, record_key_seq(before + AT_KEY) + 1);
    memcpy(page + lower, &at, sizeof at);
    lower = (uint16_t)(lower + 2);
    memcpy(page + AT_LOWER, &lower, sizeof lower);
    return true;
}

/* What it looks like stands on the next page. */
static void test_pages_with_a_node_too_many(void **state)
{
    enum { MESSAGES = 60, PAGE = 4096 };
    struct home *home = *state;
    char name[128];
    home_fill(home, MESSAGES, 256);
    home_close(home);
    snprintf(name, sizeof name, "%s/data.mdb", home->spool);
    int fd = open(name, O_RDWR);
    assert_true(fd >= 0);
    size_t len;
    unsigned added = 0;
    uint8_t *bytes = read_data(fd, &len);
    for (size_t page = 2; page < len / PAGE; page++)
        added += add_a_node(bytes + page * PAGE);
    assert_true(added > 2);
    assert_int_equal(pwrite(fd, bytes, len, 0), (ssize_t)len);
    free(bytes);
    close(fd);
    home_open(home);
    struct seen seen = home_read(home, 1, 0);
    assert_int_equal(seen.count, MESSAGES);
    for (unsigned i = 0; i < MESSAGES; i++)
        assert_int_equal(seen.seq[i], i + 1);
}

/* The next number is not taken from there: it would be 0, which nobody reads. */
static void test_keys_with_the_highest_numbers(void **state)
{
    static const uint64_t highest[] = {UINT64_C(1) << 63, UINT64_MAX - 1, UINT64_MAX};
    struct home *home = *state;
    uint32_t queue = home_fill(home, 4, 100);
    home_close(home);
    struct backdoor door = backdoor_open(home, "messages");
    for (unsigned i = 0; i < 3; i++) {
        uint8_t key[RECORD_KEY_BYTES];
        record_key(key, queue, highest[i]);
        backdoor_put(&door, key, sizeof key, (const uint8_t *)"damaged", 7);
    }
    backdoor_close(&door);
    home_open(home);
    uint64_t seq;
    home_begin(home);
    assert_int_equal(home_try_append(home, queue, 10, &seq), STATUS_OK);
    home_commit(home);
    assert_true(seq == 5);
    struct seen seen = home_read(home, queue, 0);
    assert_int_equal(seen.count, 5);
    assert_int_equal(seen.damaged_count, 3);
    seen = home_read(home, queue, UINT64_MAX);
    assert_int_equal(seen.count + seen.damaged_count, 0);
}

static void test_missing_part(void **state)
{
    struct home *home = *state;
    uint8_t key[RECORD_PART_KEY_BYTES];
    uint32_t queue = home_fill(home, 4, 10000);
    home_close(home);
    record_part_key(key, 1, 1, 3); /* the last, the first, one in the middle */
    backdoor_remove(home, "parts", key, sizeof key);
    record_part_key(key, 1, 2, 1);
    backdoor_remove(home, "parts", key, sizeof key);
    record_part_key(key, 1, 4, 2);
    backdoor_remove(home, "parts", key, sizeof key);
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

enum { BODY_BYTES = 10000 };

static enum store_choice choose_third(void *arg, const struct store_record *record)
{
    (void)arg;
    assert_int_equal(record->body_size, BODY_BYTES);
    assert_int_equal(record->body_count, 0);
    return record->seq < 3 ? STORE_PASS : record->seq == 3 ? STORE_TAKE : STORE_STOP;
}

/* What is missing of the others would be told. */
static void test_bodies_that_nobody_wants_are_not_looked_at(void **state)
{
    struct home *home = *state;
    struct seen seen = {0};
    struct store_visitor visitor = {choose_third, see_record, see_damaged, &seen};
    uint8_t key[RECORD_PART_KEY_BYTES];
    uint32_t queue = home_fill(home, 5, BODY_BYTES);
    home_close(home);
    for (uint64_t seq = 1; seq <= 5; seq++) {
        record_part_key(key, 1, seq, 2);
        if (seq != 3)
            backdoor_remove(home, "parts", key, sizeof key);
    }
    home_open(home);
    assert_int_equal(store_read(home->store, queue, 0, &visitor, &home->failure), STATUS_OK);
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.seq[0], 3);
    assert_int_equal(seen.wrong, 0);
    assert_int_equal(seen.damaged_count, 0);
    assert_int_equal(home_read(home, queue, 0).damaged_count, 4);
}

static void test_damaged_record_stays(void **state)
{
    struct home *home = *state;
    struct rejection rejection = no_route();
    uint8_t key[RECORD_KEY_BYTES];
    uint32_t queue = home_fill(home, 2, 10);
    home_close(home);
    record_key(key, 1, 1);
    backdoor_flip(home, "messages", key, sizeof key);
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

/* Cuts the last byte of a queue's entry off, which is part of its login. */
static void damage_login(struct home *home, uint32_t queue)
{
    uint8_t id[4];
    size_t len;
    directory_key(id, queue);
    struct backdoor door = backdoor_open(home, "queues");
    uint8_t *value = backdoor_get(&door, id, sizeof id, &len);
    backdoor_put(&door, id, sizeof id, value, len - 1);
    free(value);
    backdoor_close(&door);
}

struct shown {
    unsigned queues, damaged, records;
};

static bool show_queue(void *arg, const struct reader_queue *queue)
{
    struct shown *shown = arg;
    shown->queues++;
    if (queue->damage) {
        shown->damaged++;
        assert_int_equal(queue->id, 1);
        assert_string_equal(queue->user, "");
        assert_int_equal(queue->messages, 3); /* its counters are sound */
        assert_int_equal(queue->first_seq, 1);
    }
    return true;
}

static bool show_record(void *arg, const struct reader_record *record)
{
    (void)record;
    ((struct shown *)arg)->records++;
    return true;
}

static void fail_at_damage(void *arg, uint32_t queue, uint64_t seq, const char *what)
{
    (void)arg;
    fail_msg("queue %u, message %llu: %s", queue, (unsigned long long)seq, what);
}

/* Whose its messages are is lost; they are not, and everybody else goes on. */
static void test_damaged_login(void **state)
{
    struct home *home = *state;
    struct reader *reader;
    struct shown shown = {0};
    home_fill(home, 3, 10);
    home_begin(home);
    uint32_t other = home_put_queue(home, "other", "/");
    home_append(home, other, 10);
    home_commit(home);
    home_close(home);
    damage_login(home, 1);
    home_open(home);
    assert_int_equal(home_queue(home, 1).next_seq, 0); /* it is nobody's */
    assert_int_equal(home_read(home, other, 0).count, 1);
    home_begin(home);
    home_append(home, other, 10);
    home_commit(home);
    assert_int_equal(home_fill(home, 1, 10), 3); /* its number is not used again */
    assert_int_equal(home_queue(home, 3).messages, 1);
    home_reopen(home);
    assert_int_equal(home_queue(home, other).messages, 2);

    assert_int_equal(reader_open(&reader, home->spool, &home->failure), STATUS_OK);
    assert_int_equal(reader_queues(reader, show_queue, &shown, &home->failure), STATUS_OK);
    assert_int_equal(reader_records(reader, 1, 0, READER_BODIES, show_record, fail_at_damage,
                                    &shown, &home->failure),
                     STATUS_OK);
    reader_close(reader);
    assert_int_equal(shown.queues, 3);
    assert_int_equal(shown.damaged, 1);
    assert_int_equal(shown.records, 3);
}

static bool copy_counters(void *arg, const struct reader_queue *queue)
{
    struct store_queue *seen = arg;
    seen->messages = queue->messages;
    return true;
}

/* Entries whose checksums are right are held against what LMDB counts. */
static void test_records_that_are_gone(void **state)
{
    struct home *home = *state;
    uint8_t key[RECORD_KEY_BYTES];
    uint32_t queue = home_fill(home, 5, 100);
    uint64_t bytes = home_queue(home, queue).bytes;
    home_close(home);
    record_key(key, queue, 2);
    backdoor_remove(home, "messages", key, sizeof key);
    home_open(home);
    assert_int_equal(home_queue(home, queue).messages, 4);
    assert_int_equal(home_queue(home, queue).bytes, bytes / 5 * 4);
    home_close(home); /* what was mended is written */
    struct reader *reader;
    struct store_queue seen = {0};
    assert_int_equal(reader_open(&reader, home->spool, &home->failure), STATUS_OK);
    assert_int_equal(reader_queues(reader, copy_counters, &seen, &home->failure), STATUS_OK);
    reader_close(reader);
    assert_int_equal(seen.messages, 4);
    home_open(home);
}

/* Counters whose checksum is wrong are counted anew. */
static void test_counters_that_are_wrong(void **state)
{
    struct home *home = *state;
    static const uint8_t id[] = {0, 0, 0, 1};
    struct rejection why = {.code = 404, .text = "NOT_FOUND", .text_len = 9, .at_us = 1};
    for (size_t at = 8; at < 40; at += 8) { /* messages, bytes, rejected, the checksum */
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

/* What cannot leave the one list does not come into the other. */
static void test_no_retry_from_damaged_pages(void **state)
{
    struct home *home = *state;
    struct rejection why = {.code = 404, .text = "NOT_FOUND", .text_len = 9};
    uint64_t seq = 0;
    home_fill(home, 3, 10);
    home_begin(home);
    assert_int_equal(store_reject(home->store, 1, 2, &why, &home->failure), STATUS_OK);
    home_commit(home);
    store_note_damage(store_slot(home->store, 1), QUEUE_HOLED);
    home_begin(home);
    assert_int_equal(store_retry(home->store, 1, 0, 3, &seq, &home->failure), STATUS_INVALID);
    assert_int_equal(seq, 2); /* a sweep goes on behind it */
    assert_int_equal(store_discard(home->store, 1, 0, 3, &seq, &home->failure), STATUS_INVALID);
    home_commit(home);
    assert_int_equal(home_queue(home, 1).messages, 2);
    assert_int_equal(home_queue(home, 1).rejected, 1);
    assert_int_equal(home_read(home, 1, 0).count, 2);
}

#define WITH_HOME(test) cmocka_unit_test_setup_teardown(test, home_setup, home_teardown)

static size_t count_parts(struct home *home)
{
    struct backdoor door = backdoor_open(home, "parts");
    MDB_stat stat;
    assert_int_equal(mdb_stat(door.txn, door.dbi, &stat), 0);
    backdoor_close(&door);
    return stat.ms_entries;
}

static enum status discard_damaged(struct home *home, uint64_t seq)
{
    home_begin(home);
    enum status status = store_discard_damaged(home->store, 1, seq, &home->failure);
    home_commit(home);
    return status;
}

/* A damaged message goes with its parts; one that is whole does not. */
static void test_discarding_a_damaged_one(void **state)
{
    struct home *home = *state;
    uint8_t record[RECORD_KEY_BYTES], part[RECORD_PART_KEY_BYTES];
    home_fill(home, 4, 20000);
    home_close(home);
    size_t parts = count_parts(home) / 4;
    record_key(record, 1, 2);
    backdoor_flip(home, "messages", record, sizeof record);
    record_part_key(part, 1, 3, 2);
    backdoor_flip(home, "parts", part, sizeof part);
    home_open(home);
    uint64_t bytes = home_queue(home, 1).bytes;
    assert_int_equal(discard_damaged(home, 1), STATUS_INVALID);
    assert_int_equal(discard_damaged(home, 5), STATUS_NOT_FOUND);
    assert_int_equal(home_queue(home, 1).messages, 4);
    assert_int_equal(discard_damaged(home, 2), STATUS_OK);
    assert_int_equal(discard_damaged(home, 3), STATUS_OK);
    assert_int_equal(discard_damaged(home, 3), STATUS_NOT_FOUND);
    assert_int_equal(home_queue(home, 1).messages, 2);
    assert_int_equal(home_queue(home, 1).bytes, bytes / 2);
    struct seen seen = home_read(home, 1, 0);
    assert_int_equal(seen.count, 2);
    assert_int_equal(seen.damaged_count, 0);
    assert_int_equal(seen.seq[0], 1);
    assert_int_equal(seen.seq[1], 4);
    home_begin(home);
    assert_int_equal(store_delete(home->store, 1, 1, &home->failure), STATUS_OK);
    assert_int_equal(store_delete(home->store, 1, 4, &home->failure), STATUS_OK);
    home_commit(home);
    home_close(home);
    assert_int_equal(count_parts(home), 0);
    assert_true(parts > 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_HOME(test_counters_that_are_wrong),
        WITH_HOME(test_flips_in_a_record),
        WITH_HOME(test_flips_in_a_part),
        WITH_HOME(test_flips_in_a_key),
        WITH_HOME(test_pages_with_a_node_too_many),
        WITH_HOME(test_keys_with_the_highest_numbers),
        WITH_HOME(test_missing_part),
        WITH_HOME(test_bodies_that_nobody_wants_are_not_looked_at),
        WITH_HOME(test_damaged_record_stays),
        WITH_HOME(test_damaged_login),
        WITH_HOME(test_records_that_are_gone),
        WITH_HOME(test_discarding_a_damaged_one),
        WITH_HOME(test_no_retry_from_damaged_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
