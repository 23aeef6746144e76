/* Messages are found without LMDB's tree: all of them, each once, and what is not whole is named.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/spool_home.h"
#include "amqpbuf/spool_salvage.h"
#include "spool/home.h"
#include "spool/page.h"

enum { PAGE = 4096, AT_FLAGS = 10, BRANCH = 1 };

struct salvaged {
    uint64_t seq[SEEN_MAX], rejected[SEEN_MAX], damaged[SEEN_MAX], lost[SEEN_MAX];
    unsigned count, rejected_count, damaged_count, lost_count, ends;
    unsigned zeros; /* bytes of bodies that should be others */
    uint64_t messages;
    bool knows_what_is_free;
    char user[16];
};

static bool on_record(void *arg, const struct salvage_queue *queue,
                      const struct reader_record *record, const char *damage)
{
    struct salvaged *s = arg;
    assert_int_equal(queue->id, record->queue);
    snprintf(s->user, sizeof s->user, "%s", queue->user);
    assert_true(s->count < SEEN_MAX && s->rejected_count < SEEN_MAX);
    for (uint64_t i = 0; i < record->body_size; i++)
        if (record->body[i] != body_byte(i)) {
            assert_true(damage && record->body[i] == 0);
            s->zeros++;
        }
    if (damage)
        s->damaged[s->damaged_count++] = record->seq;
    else if (record->is_rejected)
        s->rejected[s->rejected_count++] = record->seq;
    else
        s->seq[s->count++] = record->seq;
    return true;
}

static void on_lost(void *arg, const struct salvage_queue *queue, uint64_t seq, const char *what)
{
    struct salvaged *s = arg;
    assert_int_equal(queue->id, 1);
    assert_non_null(what);
    s->lost[s->lost_count++] = seq;
}

static void on_end(void *arg, const struct salvage_queue *queue)
{
    struct salvaged *s = arg;
    s->ends++;
    s->messages = queue->messages;
}

static struct salvaged salvage(struct home *home)
{
    static const struct salvage_visitor visitor = {on_record, on_lost, on_end};
    struct salvaged s = {0};
    struct salvage *salvage;
    assert_int_equal(salvage_open(&salvage, home->spool, &home->failure), STATUS_OK);
    s.knows_what_is_free = salvage_knows_what_is_free(salvage);
    assert_int_equal(salvage_unreadable_pages(salvage), 0);
    salvage_records(salvage, &visitor, &s);
    salvage_close(salvage);
    return s;
}

static bool is_branch(const uint8_t *page, uint64_t number)
{
    (void)number;
    return page[AT_FLAGS] == BRANCH;
}

static bool is_head(const uint8_t *page, uint64_t number)
{
    (void)page;
    return number < 2;
}

/* Fills those pages with zeros; returns how many. */
static unsigned clear_pages(struct home *home, bool (*is_chosen)(const uint8_t *, uint64_t))
{
    char name[128];
    uint8_t page[PAGE], zeros[PAGE] = {0};
    unsigned cleared = 0;
    snprintf(name, sizeof name, "%s/data.mdb", home->spool);
    int fd = open(name, O_RDWR);
    ENSURE(fd >= 0);
    for (uint64_t number = 0; pread(fd, page, PAGE, (off_t)(number * PAGE)) == PAGE; number++)
        if (is_chosen(page, number)) {
            ENSURE(pwrite(fd, zeros, PAGE, (off_t)(number * PAGE)) == PAGE);
            cleared++;
        }
    close(fd);
    return cleared;
}

static void reject(struct home *home, uint64_t seq)
{
    struct rejection rejection = {.code = 404, .text = "NOT_FOUND", .text_len = 9, .at_us = 1};
    home_begin(home);
    assert_int_equal(store_reject(home->store, 1, seq, &rejection, &home->failure), STATUS_OK);
    home_commit(home);
}

static void take_out(struct home *home, uint64_t seq)
{
    home_begin(home);
    assert_int_equal(store_delete(home->store, 1, seq, &home->failure), STATUS_OK);
    home_commit(home);
}

/* 40 messages on many pages: 3 and 30 are deleted, 7 is rejected. */
static void fill(struct home *home)
{
    for (unsigned i = 0; i < 5; i++) {
        home_fill(home, 4, 900);
        home_fill(home, 4, 9000);
    }
    take_out(home, 3);
    take_out(home, 30);
    reject(home, 7);
    home_close(home);
}

static void assert_all_are_there(const struct salvaged *s)
{
    unsigned at = 0;
    for (uint64_t seq = 1; seq <= 40; seq++)
        if (seq != 3 && seq != 30 && seq != 7)
            assert_int_equal(s->seq[at++], seq);
    assert_int_equal(s->count, at);
    assert_int_equal(s->rejected_count, 1);
    assert_int_equal(s->rejected[0], 7);
    assert_int_equal(s->damaged_count + s->lost_count, 0);
    assert_int_equal(s->ends, 1);
    assert_int_equal(s->messages, 37);
    assert_string_equal(s->user, "shop");
}

static void test_a_whole_spool(void **state)
{
    fill(*state);
    struct salvaged s = salvage(*state);
    assert_true(s.knows_what_is_free);
    assert_all_are_there(&s);
}

/* All of the tree but its leaves is gone. */
static void test_without_branches(void **state)
{
    fill(*state);
    assert_true(clear_pages(*state, is_branch) >= 2);
    struct salvaged s = salvage(*state);
    assert_true(s.knows_what_is_free);
    assert_all_are_there(&s);
}

/* The pages that say where the tree begins, both as the commit before the last one wrote them: what
 * came last is on pages that are free there. */
static void test_with_an_older_head(void **state)
{
    struct home *home = *state;
    uint8_t pages[2][PAGE];
    uint64_t transactions[2];
    char name[128];
    home_fill(home, 3, 900);
    home_fill(home, 1, 900);
    home_close(home);
    snprintf(name, sizeof name, "%s/data.mdb", home->spool);
    int fd = open(name, O_RDWR);
    ENSURE(fd >= 0 && pread(fd, pages, sizeof pages, 0) == sizeof pages);
    for (unsigned i = 0; i < 2; i++)
        ENSURE(page_is_meta(pages[i], i, &transactions[i]));
    unsigned newest = transactions[1] > transactions[0];
    ENSURE(pwrite(fd, pages[1 - newest], PAGE, newest * PAGE) == PAGE);
    struct salvaged s = salvage(home);
    assert_false(s.knows_what_is_free);
    assert_int_equal(s.count, 4);
    for (uint64_t seq = 1; seq <= 4; seq++)
        assert_int_equal(s.seq[seq - 1], seq);
    pages[1 - newest][0] ^= 1; /* and if its number is right */
    ENSURE(pwrite(fd, pages[1 - newest], PAGE, newest * PAGE) == PAGE);
    assert_false(salvage(home).knows_what_is_free);
    ENSURE(pwrite(fd, pages[newest], PAGE, newest * PAGE) == PAGE);
    close(fd);
    assert_true(salvage(home).knows_what_is_free);
}

/* LMDB cannot open it. What was deleted last may be there still. */
static void test_without_heads(void **state)
{
    fill(*state);
    assert_int_equal(clear_pages(*state, is_head), 2);
    struct salvaged s = salvage(*state);
    assert_false(s.knows_what_is_free);
    unsigned at = 0;
    for (uint64_t seq = 1; seq <= 40; seq++) {
        if (seq == 7)
            continue;
        bool is_there = at < s.count && s.seq[at] == seq;
        assert_true(is_there || seq == 3 || seq == 30);
        at += is_there;
    }
    assert_int_equal(s.count, at);
    assert_int_equal(s.rejected_count, 1); /* and not the older copy, which waits */
    assert_int_equal(s.rejected[0], 7);
    assert_int_equal(s.lost_count, 0);
}

/* Its bytes can be had all the same. */
static void test_a_damaged_record(void **state)
{
    struct home *home = *state;
    uint8_t key[RECORD_KEY_BYTES];
    home_fill(home, 3, 100);
    home_close(home);
    record_key(key, 1, 2);
    struct backdoor door = backdoor_open(home, "messages");
    size_t len;
    uint8_t *value = backdoor_get(&door, key, sizeof key, &len);
    value[9] ^= 0xFF; /* of the time: all lengths stay */
    backdoor_put(&door, key, sizeof key, value, len);
    free(value);
    backdoor_close(&door);
    struct salvaged s = salvage(home);
    assert_int_equal(s.count, 2);
    assert_int_equal(s.damaged_count, 1);
    assert_int_equal(s.damaged[0], 2);
    assert_int_equal(s.zeros, 0);
}

static void test_damaged_and_missing_parts(void **state)
{
    struct home *home = *state;
    uint8_t key[RECORD_PART_KEY_BYTES];
    home_fill(home, 4, 10000);
    home_close(home);
    record_part_key(key, 1, 2, 2);
    backdoor_flip(home, "parts", key, sizeof key);
    record_part_key(key, 1, 3, 3);
    backdoor_remove(home, "parts", key, sizeof key);
    record_key(key, 1, 4);
    backdoor_remove(home, "messages", key, RECORD_KEY_BYTES);
    struct salvaged s = salvage(home);
    assert_int_equal(s.count, 1);
    assert_int_equal(s.damaged_count, 2);
    assert_int_equal(s.damaged[0], 2);
    assert_int_equal(s.damaged[1], 3);
    assert_true(s.zeros > 5000 && s.zeros <= 2 * RECORD_PART_BYTES);
    assert_int_equal(s.lost_count, 1); /* its parts alone */
    assert_int_equal(s.lost[0], 4);
}

static void test_not_beside_amqpbuf(void **state)
{
    struct home *home = *state;
    struct salvage *salvage;
    struct home_lock lock = HOME_LOCK_NONE;
    home_fill(home, 1, 10);
    home_close(home);
    assert_int_equal(home_lock(&lock, home->spool, &home->failure), STATUS_OK);
    assert_int_equal(salvage_open(&salvage, home->spool, &home->failure), STATUS_IN_USE);
    home_unlock(&lock);
    assert_int_equal(salvage_open(&salvage, home->top, &home->failure), STATUS_NO_SPOOL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_whole_spool, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(test_without_branches, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(test_without_heads, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(test_with_an_older_head, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(test_a_damaged_record, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(test_damaged_and_missing_parts, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(test_not_beside_amqpbuf, home_setup, home_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
