/* The durable queues: what is committed is there, whatever happens next. */

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

/* ---- opening ---- */

static mode_t mode_of(const char *directory, const char *file)
{
    char name[128];
    struct stat st;
    snprintf(name, sizeof name, "%s/%s", directory, file);
    assert_int_equal(stat(name, &st), 0);
    return st.st_mode & 07777;
}

static void test_modes_of_what_is_made(void **state)
{
    struct home *home = *state;
    mode_t mask = umask(0);
    home_open(home);
    umask(mask);
    assert_int_equal(mode_of(home->spool, "."), 0700);
    assert_int_equal(mode_of(home->spool, "data.mdb"), 0600);
    assert_int_equal(mode_of(home->spool, "lock.mdb"), 0600);
    assert_int_equal(mode_of(home->spool, "lock"), 0600);
}

static void test_directory_that_others_may_enter(void **state)
{
    struct home *home = *state;
    static const mode_t modes[] = {0755, 0750, 0710, 0701, 0720};
    char mends[128];
    snprintf(mends, sizeof mends, "chmod 700 %s", home->spool);
    assert_int_equal(mkdir(home->spool, 0700), 0);
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        assert_int_equal(chmod(home->spool, modes[i]), 0);
        assert_int_equal(home_try_open(home, HOME_MAX_SIZE), STATUS_PERMISSION);
        assert_non_null(strstr(home->failure.text, mends));
    }
    assert_int_equal(chmod(home->spool, 0700), 0);
    home_open(home);
}

static void test_no_directory(void **state)
{
    struct home *home = *state;
    snprintf(home->spool, sizeof home->spool, "%s/a/b", home->top);
    assert_int_equal(home_try_open(home, HOME_MAX_SIZE), STATUS_IO);
    assert_non_null(strstr(home->failure.text, home->spool));

    snprintf(home->spool, sizeof home->spool, "%s/file", home->top);
    int fd = open(home->spool, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(home_try_open(home, HOME_MAX_SIZE), STATUS_INVALID);
    assert_non_null(strstr(home->failure.text, home->spool));
}

static void test_second_opener(void **state)
{
    struct home *home = *state;
    struct store_options options = {.path = home->spool, .max_size_bytes = HOME_MAX_SIZE};
    struct store *second = NULL;
    uint32_t queue = home_fill(home, 1, 10);
    assert_int_equal(store_open(&second, &options, &home->failure), STATUS_IN_USE);
    assert_non_null(strstr(home->failure.text, home->spool));
    assert_null(second);

    /* The first is none the worse for it, and gives the directory back. */
    home_begin(home);
    home_append(home, queue, 10);
    home_commit(home);
    home_reopen(home);
    assert_int_equal(home_read(home, queue, 0).count, 2);
}

/* Whatever is removed from the directory while it is in use (tmpreaper, rsync --delete). */
static void test_second_opener_without_the_lock_file(void **state)
{
    struct home *home = *state;
    struct store_options options = {.path = home->spool, .max_size_bytes = HOME_MAX_SIZE};
    struct store *second = NULL;
    char name[128];
    home_fill(home, 1, 10);
    snprintf(name, sizeof name, "%s/lock", home->spool);
    assert_int_equal(unlink(name), 0);
    assert_int_equal(store_open(&second, &options, &home->failure), STATUS_IN_USE);
    assert_int_equal(store_open(&second, &options, &home->failure), STATUS_IN_USE);
    assert_null(second);
}

/* Version 0.1.0 takes that file alone. */
static void test_opener_beside_one_that_has_the_lock_file(void **state)
{
    struct home *home = *state;
    char name[128];
    home_fill(home, 1, 10);
    home_close(home);
    snprintf(name, sizeof name, "%s/lock", home->spool);
    int fd = open(name, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    assert_int_equal(home_try_open(home, HOME_MAX_SIZE), STATUS_IN_USE);
    close(fd);
    home_open(home);
}

static void set_version(struct home *home, uint32_t version)
{
    struct backdoor door = backdoor_open(home, "meta");
    backdoor_put(&door, "version", 7,
                 (const uint8_t[]){(uint8_t)(version >> 24), (uint8_t)(version >> 16),
                                   (uint8_t)(version >> 8), (uint8_t)version},
                 4);
    backdoor_close(&door);
}

static void test_damaged_version(void **state)
{
    struct home *home = *state;
    home_fill(home, 1, 10);
    home_close(home);
    for (unsigned bit = 8; bit < 32; bit++) {
        set_version(home, SPOOL_FORMAT_VERSION | UINT32_C(1) << bit);
        assert_int_equal(home_try_open(home, HOME_MAX_SIZE), STATUS_DAMAGED);
        assert_string_equal(home->failure.text, "the format version is unreadable");
    }
    set_version(home, SPOOL_FORMAT_VERSION);
    home_open(home);
}

static void test_newer_version(void **state)
{
    struct home *home = *state;
    uint32_t queue = home_fill(home, 1, 10);
    home_close(home);
    set_version(home, SPOOL_FORMAT_VERSION + 1);
    assert_int_equal(home_try_open(home, HOME_MAX_SIZE), STATUS_VERSION);
    assert_non_null(strstr(home->failure.text, "version 3"));
    set_version(home, SPOOL_FORMAT_VERSION);
    home_open(home);
    assert_int_equal(home_read(home, queue, 0).count, 1);
}

static void test_golden_meta_and_queue(void **state)
{
    struct home *home = *state;
    static const uint8_t golden_version[] = {0, 0, 0, 2};
    static const uint8_t golden_queue[] = {
        0,    0,    0,    0,    0,    0,    0,    4,  /* next sequence number */
        0,    0,    0,    0,    0,    0,    0,    2,  /* messages */
        0,    0,    0,    0,    0,    0,    0,    60, /* bytes: twice method, header and body of 10
                                                       */
        0,    0,    0,    0,    0,    0,    0,    1,  /* rejected */
        0x3B, 0xF7, 0xEA, 0xE2, 0x22, 0xD5, 0x1B, 0x18, /* checksum of these */
        0x90, 0x23, 0x33, 0x71, 0x66, 0xD1, 0x55, 0xF4, /* and of what follows */
        0,    4,    0,    1,    0,    6,                /* lengths of user, vhost, password */
        's',  'h',  'o',  'p',  '/',  's',  'e',  'a',  'l', 'e', 'd',
    };
    static const uint8_t id[] = {0, 0, 0, 1};
    struct rejection rejection = no_route();
    uint32_t queue = home_fill(home, 3, 10);
    home_begin(home);
    assert_int_equal(store_reject(home->store, queue, 1, &rejection, &home->failure), STATUS_OK);
    home_commit(home);
    home_close(home);

    size_t len;
    struct backdoor door = backdoor_open(home, "meta");
    uint8_t *value = backdoor_get(&door, "version", 7, &len);
    assert_int_equal(len, sizeof golden_version);
    assert_memory_equal(value, golden_version, len);
    free(value);
    backdoor_close(&door);

    door = backdoor_open(home, "queues");
    value = backdoor_get(&door, id, sizeof id, &len);
    assert_int_equal(len, sizeof golden_queue);
    assert_memory_equal(value, golden_queue, len);
    free(value);
    backdoor_close(&door);
}

/* ---- many queues ---- */

enum { MANY_QUEUES = 5000 };

static void test_many_queues(void **state)
{
    struct home *home = *state;
    char user[16];
    struct store_options options = {
        .path = home->spool, .max_size_bytes = HOME_MAX_SIZE, .sync = STORE_SYNC_NEVER};
    assert_int_equal(store_open(&home->store, &options, &home->failure), STATUS_OK);
    home_begin(home);
    for (uint32_t id = 1; id <= MANY_QUEUES; id++) {
        snprintf(user, sizeof user, "user-%u", id);
        assert_int_equal(home_put_queue(home, user, "/"), id);
        assert_int_equal(home_append(home, id, id % 50), 1);
    }
    home_commit(home);
    home_begin(home);
    for (uint32_t id = MANY_QUEUES; id > 0; id--)
        assert_int_equal(home_append(home, id, id % 3 == 0 ? 5000 : 100), 2);
    home_commit(home);
    home_reopen(home);
    home_begin(home);
    for (uint32_t id = 1; id <= MANY_QUEUES; id += 7)
        assert_int_equal(store_delete(home->store, id, 1, &home->failure), STATUS_OK);
    home_commit(home);
    for (uint32_t id = 1; id <= MANY_QUEUES; id++) {
        struct seen seen = home_read(home, id, 0);
        unsigned deleted = id % 7 == 1;
        assert_int_equal(seen.count, 2 - deleted);
        assert_int_equal(seen.damaged_count, 0);
        assert_int_equal(seen.seq[seen.count - 1], 2);
        assert_int_equal(seen.body_size[seen.count - 1], id % 3 == 0 ? 5000 : 100);
    }
    assert_int_equal(store_queue_drop(home->store, 2502, &home->failure), STATUS_INVALID);
    home_begin(home);
    assert_int_equal(store_delete(home->store, 2502, 1, &home->failure), STATUS_OK);
    assert_int_equal(store_delete(home->store, 2502, 2, &home->failure), STATUS_OK);
    home_commit(home);
    assert_int_equal(store_queue_drop(home->store, 2502, &home->failure), STATUS_OK);
    home_reopen(home);
    assert_int_equal(home_queue(home, 2502).next_seq, 0);
    assert_int_equal(home_queue(home, 2503).messages, 2 - (2503 % 7 == 1));
}

/* ---- there and back ---- */

static void test_every_size_of_body(void **state)
{
    struct home *home = *state;
    static const size_t sizes[] = {0,
                                   1,
                                   RECORD_INLINE_MAX - 1,
                                   RECORD_INLINE_MAX,
                                   RECORD_INLINE_MAX + 1,
                                   RECORD_PART_BYTES,
                                   RECORD_PART_BYTES + 1,
                                   2 * RECORD_PART_BYTES,
                                   100000};
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    home_open(home);
    home_begin(home);
    uint32_t queue = home_put_queue(home, "shop", "/");
    uint64_t bytes = 0;
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(home_append(home, queue, sizes[i]), i + 1);
        bytes += METHOD_BYTES + HEADER_BYTES + sizes[i];
    }
    home_commit(home);
    for (unsigned opened = 0; opened < 2; opened++) {
        struct seen seen = home_read(home, queue, 0);
        assert_int_equal(seen.count, COUNT);
        assert_int_equal(seen.damaged_count, 0);
        for (unsigned i = 0; i < COUNT; i++) {
            assert_int_equal(seen.seq[i], i + 1);
            assert_int_equal(seen.body_size[i], sizes[i]);
        }
        assert_int_equal(home_queue(home, queue).messages, COUNT);
        assert_int_equal(home_queue(home, queue).bytes, bytes);
        home_reopen(home);
    }
}

static void test_large_body(void **state)
{
    struct home *home = *state;
    enum { LARGE = 5 * 1024 * 1024 + 3 };
    home_open(home);
    uint32_t queue = home_fill(home, 2, LARGE);
    home_reopen(home);
    struct seen seen = home_read(home, queue, 0);
    assert_int_equal(seen.count, 2);
    assert_int_equal(seen.body_size[1], LARGE);

    home_begin(home);
    assert_int_equal(store_delete(home->store, queue, 1, &home->failure), STATUS_OK);
    home_commit(home);
    seen = home_read(home, queue, 0);
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.seq[0], 2);
    home_begin(home);
    assert_int_equal(store_delete(home->store, queue, 2, &home->failure), STATUS_OK);
    home_commit(home);
    assert_int_equal(home_queue(home, queue).bytes, 0);

    home_close(home); /* no part stays behind */
    struct backdoor door = backdoor_open(home, "parts");
    MDB_stat stat;
    assert_int_equal(mdb_stat(door.txn, door.dbi, &stat), 0);
    assert_int_equal(stat.ms_entries, 0);
    backdoor_close(&door);
}

static void test_body_in_pieces(void **state)
{
    struct home *home = *state;
    enum { PIECE = 1000, COUNT = 30 };
    uint8_t *body = make_body(PIECE * COUNT);
    struct iovec pieces[2 * COUNT];
    for (unsigned i = 0; i < COUNT; i++) {
        pieces[2 * i] = (struct iovec){NULL, 0};
        pieces[2 * i + 1] = (struct iovec){body + i * PIECE, PIECE};
    }
    struct store_message message = {.kind = RECORD_PUBLISH,
                                    .received_at_us = 1700000000000000 + PIECE * COUNT,
                                    .method = text("method"),
                                    .header = text("content header"),
                                    .body = pieces,
                                    .body_count = 2 * COUNT};
    uint64_t seq = 0;
    uint32_t queue = home_fill(home, 0, 0);
    home_begin(home);
    assert_int_equal(store_append(home->store, queue, &message, &seq, &home->failure), STATUS_OK);
    home_commit(home);
    free(body);
    struct seen seen = home_read(home, queue, 0);
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.body_size[0], PIECE * COUNT);
}

static bool see_declare(void *arg, const struct store_record *record)
{
    unsigned *count = arg;
    assert_int_equal(record->kind, RECORD_DECLARE);
    assert_int_equal(record->received_at_us, 5);
    assert_int_equal(record->method.iov_len, 7);
    assert_memory_equal(record->method.iov_base, "declare", 7);
    assert_int_equal(record->header.iov_len, 0);
    assert_int_equal(record->body_size, 0);
    (*count)++;
    return true;
}

static void test_declare(void **state)
{
    struct home *home = *state;
    struct store_message message = {
        .kind = RECORD_DECLARE, .received_at_us = 5, .method = text("declare")};
    uint64_t seq;
    unsigned count = 0;
    uint32_t queue = home_fill(home, 0, 0);
    home_begin(home);
    assert_int_equal(store_append(home->store, queue, &message, &seq, &home->failure), STATUS_OK);
    home_commit(home);
    struct store_visitor visitor = {.visit = see_declare, .damaged = see_damaged, .arg = &count};
    assert_int_equal(store_read(home->store, queue, 0, &visitor, &home->failure), STATUS_OK);
    assert_int_equal(count, 1);
    assert_int_equal(home_queue(home, queue).bytes, 7);
}

static bool stop_at_two(void *arg, const struct store_record *record)
{
    uint64_t *last = arg;
    *last = record->seq;
    return record->seq < 2;
}

static void test_read_from_and_to(void **state)
{
    struct home *home = *state;
    uint32_t queue = home_fill(home, 5, 10);
    struct seen seen = home_read(home, queue, 3);
    assert_int_equal(seen.count, 2);
    assert_int_equal(seen.seq[0], 4);
    assert_int_equal(home_read(home, queue, 5).count, 0);
    uint64_t last = 0;
    struct store_visitor visitor = {.visit = stop_at_two, .damaged = see_damaged, .arg = &last};
    assert_int_equal(store_read(home->store, queue, 0, &visitor, &home->failure), STATUS_OK);
    assert_int_equal(last, 2);
}

static void test_what_is_not_there(void **state)
{
    struct home *home = *state;
    struct rejection rejection = no_route();
    uint64_t seq = 0;
    uint32_t queue = home_fill(home, 1, 10);
    home_begin(home);
    assert_int_equal(store_delete(home->store, queue, 99, &home->failure), STATUS_NOT_FOUND);
    assert_int_equal(store_reject(home->store, queue, 99, &rejection, &home->failure),
                     STATUS_NOT_FOUND);
    assert_int_equal(store_delete(home->store, queue + 1, 1, &home->failure), STATUS_INVALID);
    assert_int_equal(home_try_append(home, queue + 1, 10, &seq), STATUS_INVALID);
    home_append(home, queue, 10); /* the transaction goes on */
    home_commit(home);
    assert_int_equal(home_read(home, queue, 0).count, 2);
    struct seen seen = {0};
    struct store_visitor visitor = {.visit = see_record, .damaged = see_damaged, .arg = &seen};
    assert_int_equal(store_read(home->store, queue + 1, 0, &visitor, &home->failure),
                     STATUS_INVALID);
}

/* ---- queues ---- */

struct found {
    char user[16], vhost[16], sealed[16];
    uint32_t id;
    bool is_found;
};

static bool find_queue(void *arg, const struct store_queue *queue)
{
    struct found *found = arg;
    if (queue->id != found->id)
        return true;
    found->is_found = true;
    snprintf(found->user, sizeof found->user, "%s", queue->user);
    snprintf(found->vhost, sizeof found->vhost, "%s", queue->vhost);
    snprintf(found->sealed, sizeof found->sealed, "%.*s", (int)queue->sealed_len,
             (const char *)queue->sealed);
    return false;
}

static struct found home_find(struct home *home, uint32_t id)
{
    struct found found = {.id = id};
    store_queues(home->store, find_queue, &found);
    return found;
}

static uint32_t put_password(struct home *home, const char *user, const char *vhost,
                             const char *sealed)
{
    uint32_t id = 0;
    assert_int_equal(store_queue_put(home->store, user, vhost, (const uint8_t *)sealed,
                                     strlen(sealed), &id, &home->failure),
                     STATUS_OK);
    return id;
}

static void test_queues_by_login(void **state)
{
    struct home *home = *state;
    home_open(home);
    home_begin(home);
    uint32_t one = put_password(home, "shop", "/", "a");
    uint32_t two = put_password(home, "shop", "/x", "b");
    uint32_t three = put_password(home, "shop/", "x", "");
    assert_int_equal(put_password(home, "shop", "/", "new"), one);
    home_append(home, two, 10);
    home_commit(home);
    assert_true(one < two && two < three);
    home_reopen(home);
    assert_string_equal(home_find(home, one).sealed, "new");
    assert_string_equal(home_find(home, two).vhost, "/x");
    assert_string_equal(home_find(home, two).sealed, "b");
    assert_string_equal(home_find(home, three).user, "shop/");
    assert_string_equal(home_find(home, three).sealed, "");
    assert_int_equal(home_read(home, one, 0).count, 0);
    assert_int_equal(home_read(home, two, 0).count, 1);
    home_begin(home);
    assert_int_equal(put_password(home, "shop", "/x", "c"), two);
    home_commit(home);
    assert_int_equal(home_read(home, two, 0).count, 1);
    assert_string_equal(home_find(home, two).sealed, "c");
}

static void test_name_too_long(void **state)
{
    struct home *home = *state;
    char *name = malloc(UINT16_MAX + 2);
    uint32_t id;
    assert_non_null(name);
    memset(name, 'x', UINT16_MAX + 1);
    name[UINT16_MAX + 1] = 0;
    home_open(home);
    home_begin(home);
    assert_int_equal(
        store_queue_put(home->store, name, "/", (const uint8_t *)"", 0, &id, &home->failure),
        STATUS_INVALID);
    home_put_queue(home, "shop", "/");
    home_commit(home);
    free(name);
}

/* ---- aborting ---- */

static void test_abort_restores_counters(void **state)
{
    struct home *home = *state;
    struct rejection rejection = no_route();
    uint32_t queue = home_fill(home, 3, 5000);
    struct store_queue before = home_queue(home, queue);
    home_begin(home);
    home_append(home, queue, 10);
    assert_int_equal(store_delete(home->store, queue, 1, &home->failure), STATUS_OK);
    assert_int_equal(store_reject(home->store, queue, 2, &rejection, &home->failure), STATUS_OK);
    put_password(home, "shop", "/", "other");
    put_password(home, "shop", "/", "yet another");
    store_abort(home->store);
    for (unsigned opened = 0; opened < 2; opened++) {
        struct store_queue after = home_queue(home, queue);
        assert_int_equal(after.next_seq, before.next_seq);
        assert_int_equal(after.messages, 3);
        assert_int_equal(after.bytes, before.bytes);
        assert_int_equal(after.rejected, 0);
        assert_string_equal(home_find(home, queue).sealed, "sealed");
        assert_int_equal(home_read(home, queue, 0).count, 3);
        home_reopen(home);
    }
}

static void test_abort_forgets_new_queues(void **state)
{
    struct home *home = *state;
    uint32_t old = home_fill(home, 1, 10);
    home_begin(home);
    uint32_t first = home_put_queue(home, "new", "/"), second = home_put_queue(home, "new", "/2");
    home_append(home, first, 10);
    home_append(home, second, 5000);
    home_append(home, old, 10);
    store_abort(home->store);
    assert_false(home_find(home, first).is_found);
    assert_false(home_find(home, second).is_found);
    assert_int_equal(home_queue(home, old).messages, 1);

    home_begin(home);
    uint32_t again = home_put_queue(home, "new", "/2");
    assert_int_equal(home_append(home, again, 5000), 1);
    home_commit(home);
    home_reopen(home);
    assert_string_equal(home_find(home, again).vhost, "/2");
    assert_int_equal(home_read(home, again, 0).count, 1);
    assert_int_equal(home_queue(home, old).messages, 1);
}

/* ---- sequence numbers ---- */

static void test_numbers_are_never_used_twice(void **state)
{
    struct home *home = *state;
    uint32_t queue = home_fill(home, 3, 10);
    home_begin(home);
    for (uint64_t seq = 1; seq <= 3; seq++)
        assert_int_equal(store_delete(home->store, queue, seq, &home->failure), STATUS_OK);
    home_commit(home);
    assert_int_equal(home_queue(home, queue).messages, 0);
    assert_int_equal(home_queue(home, queue).bytes, 0);
    home_reopen(home);
    home_begin(home);
    assert_int_equal(home_append(home, queue, 10), 4);
    home_commit(home);
}

/* A next number that was damaged must not lead to a message being overwritten. */
static void test_numbers_pass_what_is_there(void **state)
{
    struct home *home = *state;
    static const uint8_t id[] = {0, 0, 0, 1};
    struct rejection rejection = no_route();
    uint32_t queue = home_fill(home, 3, 10);
    home_begin(home);
    assert_int_equal(store_reject(home->store, queue, 3, &rejection, &home->failure), STATUS_OK);
    home_commit(home);
    home_close(home);
    struct backdoor door = backdoor_open(home, "queues");
    size_t len;
    uint8_t *value = backdoor_get(&door, id, sizeof id, &len);
    assert_int_equal(value[7], 4);
    value[7] = 1;
    backdoor_put(&door, id, sizeof id, value, len);
    free(value);
    backdoor_close(&door);
    home_open(home);
    home_begin(home);
    assert_int_equal(home_append(home, queue, 10), 4);
    home_commit(home);
    assert_int_equal(home_read(home, queue, 0).count, 3);
}

/* ---- kill -9 ---- */

enum { KILL_OPEN = 3, KILL_COMMITTED = 5 };

/* In a child: messages that are committed, then some that are not. No cmocka here. */
static void append_until_killed(struct home *home, int tell, unsigned committed, unsigned open)
{
    uint64_t seq;
    uint32_t queue;
    ENSURE(home_try_open(home, HOME_MAX_SIZE) == STATUS_OK);
    ENSURE(store_begin(home->store, NULL) == STATUS_OK);
    ENSURE(store_queue_put(home->store, "shop", "/", (const uint8_t *)"sealed", 6, &queue, NULL) ==
           STATUS_OK);
    for (unsigned i = 0; i < committed; i++)
        ENSURE(home_try_append(home, queue, i * 2000, &seq) == STATUS_OK);
    if (committed > 0) {
        ENSURE(store_commit(home->store, NULL) == STATUS_OK);
        ENSURE(store_begin(home->store, NULL) == STATUS_OK);
        ENSURE(store_delete(home->store, queue, 1, NULL) == STATUS_OK);
    }
    for (unsigned i = 0; i < open; i++)
        ENSURE(home_try_append(home, queue, 10, &seq) == STATUS_OK);
    ENSURE(write(tell, "x", 1) == 1);
    for (;;)
        pause();
}

static void kill_a_writer(struct home *home, unsigned committed, unsigned open)
{
    int ends[2], status;
    char told;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(ends[0]);
        append_until_killed(home, ends[1], committed, open);
    }
    close(ends[1]);
    ssize_t n = read(ends[0], &told, 1); /* 0 if the child failed */
    close(ends[0]);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(n, 1);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static bool count_queue(void *arg, const struct store_queue *queue)
{
    (void)queue;
    (*(unsigned *)arg)++;
    return true;
}

static void test_killed_before_commit(void **state)
{
    struct home *home = *state;
    unsigned queues = 0;
    kill_a_writer(home, 0, KILL_OPEN);
    home_open(home);
    store_queues(home->store, count_queue, &queues);
    assert_int_equal(queues, 0);
    uint32_t queue = home_fill(home, 1, 10);
    assert_int_equal(home_read(home, queue, 0).seq[0], 1);
}

static void test_killed_after_commit(void **state)
{
    struct home *home = *state;
    kill_a_writer(home, KILL_COMMITTED, 0);
    home_open(home);
    struct store_queue queue = home_queue(home, 1);
    assert_int_equal(queue.messages, KILL_COMMITTED);
    assert_int_equal(queue.next_seq, KILL_COMMITTED + 1);
    assert_int_equal(queue.bytes,
                     KILL_COMMITTED * (METHOD_BYTES + HEADER_BYTES) + 2000 * (1 + 2 + 3 + 4));
    struct seen seen = home_read(home, 1, 0);
    assert_int_equal(seen.count, KILL_COMMITTED);
    assert_int_equal(seen.body_size[4], 8000);
}

static void test_killed_between_commits(void **state)
{
    struct home *home = *state;
    kill_a_writer(home, KILL_COMMITTED, KILL_OPEN);
    home_open(home);
    struct store_queue queue = home_queue(home, 1);
    assert_int_equal(queue.messages, KILL_COMMITTED);
    assert_int_equal(queue.next_seq, KILL_COMMITTED + 1);
    assert_int_equal(home_read(home, 1, 0).count, KILL_COMMITTED);
}

/* ---- rejected ---- */

static void test_reject(void **state)
{
    struct home *home = *state;
    struct rejection rejection = no_route();
    struct store_message message = {.kind = RECORD_PUBLISH, .method = text("method")};
    uint64_t seq;
    uint32_t queue = home_fill(home, 3, 5000);
    home_begin(home);
    assert_int_equal(store_reject(home->store, queue, 2, &rejection, &home->failure), STATUS_OK);
    assert_int_equal(store_reject(home->store, queue, 2, &rejection, &home->failure),
                     STATUS_NOT_FOUND);
    assert_int_equal(
        store_append_rejected(home->store, queue, &message, &rejection, &seq, &home->failure),
        STATUS_OK);
    assert_int_equal(seq, 4);
    assert_int_equal(home_append(home, queue, 5000), 5);
    /* an older one after a younger one */
    assert_int_equal(store_reject(home->store, queue, 1, &rejection, &home->failure), STATUS_OK);
    home_commit(home);
    for (unsigned opened = 1; opened <= 2; opened++) {
        struct store_queue counters = home_queue(home, queue);
        assert_int_equal(counters.messages, 2);
        assert_int_equal(counters.bytes, 2 * (METHOD_BYTES + HEADER_BYTES + 5000));
        assert_int_equal(counters.rejected, 3);
        home_reopen(home);
    }
    struct seen seen = home_read(home, queue, 0);
    assert_int_equal(seen.count, 2);
    assert_int_equal(seen.seq[0], 3);
    assert_int_equal(seen.seq[1], 5);
    home_begin(home);
    assert_int_equal(store_delete(home->store, queue, 2, &home->failure), STATUS_NOT_FOUND);
    home_commit(home);
}

static size_t count_parts(struct home *home)
{
    home_close(home);
    struct backdoor door = backdoor_open(home, "parts");
    MDB_stat stat;
    assert_int_equal(mdb_stat(door.txn, door.dbi, &stat), 0);
    backdoor_close(&door);
    home_open(home);
    return stat.ms_entries;
}

/* One that is put back takes its parts with it, and one that is discarded leaves none. */
static void test_rejected_ones_with_parts(void **state)
{
    struct home *home = *state;
    enum { LARGE = 3 * 1024 * 1024 };
    struct rejection rejection = no_route();
    uint64_t seq;
    uint32_t queue = home_fill(home, 3, LARGE);
    size_t parts = count_parts(home) / 3;
    assert_true(parts > 0);
    home_begin(home);
    for (uint64_t n = 1; n <= 3; n++)
        assert_int_equal(store_reject(home->store, queue, n, &rejection, &home->failure),
                         STATUS_OK);
    home_commit(home);
    assert_int_equal(count_parts(home), 3 * parts);
    home_begin(home);
    assert_int_equal(store_discard(home->store, queue, 1, 3, &seq, &home->failure), STATUS_OK);
    assert_int_equal(seq, 2);
    home_commit(home);
    assert_int_equal(count_parts(home), 2 * parts);
    home_begin(home);
    assert_int_equal(store_retry(home->store, queue, 0, 3, &seq, &home->failure), STATUS_OK);
    assert_int_equal(seq, 1);
    home_commit(home);
    assert_int_equal(count_parts(home), 2 * parts);
    struct store_queue counters = home_queue(home, queue);
    assert_int_equal(counters.messages, 1);
    assert_int_equal(counters.bytes, METHOD_BYTES + HEADER_BYTES + LARGE);
    assert_int_equal(counters.rejected, 1);
    struct seen seen = home_read(home, queue, 0);
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.seq[0], 4);
    assert_int_equal(seen.body_size[0], LARGE);
    home_begin(home);
    assert_int_equal(store_discard(home->store, queue, 0, 3, &seq, &home->failure), STATUS_OK);
    assert_int_equal(store_discard(home->store, queue, 0, 3, &seq, &home->failure),
                     STATUS_NOT_FOUND);
    assert_int_equal(store_delete(home->store, queue, 4, &home->failure), STATUS_OK);
    home_commit(home);
    assert_int_equal(count_parts(home), 0);
    assert_int_equal(home_queue(home, queue).rejected, 0);
}

#define WITH_HOME(test) cmocka_unit_test_setup_teardown(test, home_setup, home_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_HOME(test_modes_of_what_is_made),
        WITH_HOME(test_directory_that_others_may_enter),
        WITH_HOME(test_no_directory),
        WITH_HOME(test_second_opener),
        WITH_HOME(test_second_opener_without_the_lock_file),
        WITH_HOME(test_opener_beside_one_that_has_the_lock_file),
        WITH_HOME(test_newer_version),
        WITH_HOME(test_damaged_version),
        WITH_HOME(test_golden_meta_and_queue),
        WITH_HOME(test_many_queues),
        WITH_HOME(test_every_size_of_body),
        WITH_HOME(test_large_body),
        WITH_HOME(test_body_in_pieces),
        WITH_HOME(test_declare),
        WITH_HOME(test_read_from_and_to),
        WITH_HOME(test_what_is_not_there),
        WITH_HOME(test_queues_by_login),
        WITH_HOME(test_name_too_long),
        WITH_HOME(test_abort_restores_counters),
        WITH_HOME(test_abort_forgets_new_queues),
        WITH_HOME(test_numbers_are_never_used_twice),
        WITH_HOME(test_numbers_pass_what_is_there),
        WITH_HOME(test_killed_before_commit),
        WITH_HOME(test_killed_after_commit),
        WITH_HOME(test_killed_between_commits),
        WITH_HOME(test_reject),
        WITH_HOME(test_rejected_ones_with_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
