/* A spool of format 1 becomes one of format 2 when it is opened, whatever ends that in the middle.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "../support/spool_home.h"
#include "../support/spool_v1.h"
#include "amqpbuf/spool_reader.h"

enum {
    QUEUES = 200, /* more than a step has lists for, several times */
    WAITING = 5,
    REFUSED = 2,
    ROUNDS_MAX = 40,
    LARGE = 9000, /* in three parts */
};

static const struct rejection why = {
    .code = 404, .text = "NOT_FOUND", .text_len = 9, .at_us = 1700000000000001};

/* Bodies of the n-th message of a queue: some have parts. */
static size_t size_of(uint32_t queue, unsigned n)
{
    return (queue + n) % 3 == 0 ? LARGE : 20 + queue + n;
}

/* The message that home_append makes; `rejection` puts it into the rejected list. */
static void append(struct v1_queue *q, size_t body_len, const struct rejection *rejection)
{
    uint8_t *body = make_body(body_len);
    struct record r = {.kind = RECORD_PUBLISH,
                       .received_at_us = 1700000000000000 + body_len,
                       .method = text("method"),
                       .header = text("content header"),
                       .body_size = body_len,
                       .is_rejected = rejection != NULL};
    if (rejection)
        r.rejection = *rejection;
    v1_append(q, &r, body);
    free(body);
}

/* In each queue two that were rejected, numbers that were deleted, and what waits. */
static void make(struct home *home, uint32_t queues)
{
    struct v1 v1 = v1_open(home->spool);
    for (uint32_t id = 1; id <= queues; id++) {
        char user[16];
        struct v1_queue q = v1_begin_queue(&v1, id);
        for (unsigned n = 0; n < REFUSED; n++)
            append(&q, size_of(id, n), &why);
        q.next_seq += 3;
        for (unsigned n = 0; n < WAITING; n++)
            append(&q, size_of(id, n), NULL);
        snprintf(user, sizeof user, "user-%u", id);
        v1_end_queue(&q, user, "/");
    }
    v1_close(&v1);
}

static uint64_t bytes_of(uint32_t queue)
{
    uint64_t bytes = 0;
    for (unsigned n = 0; n < WAITING; n++)
        bytes += METHOD_BYTES + HEADER_BYTES + size_of(queue, n);
    return bytes;
}

struct refused {
    unsigned count;
    uint32_t queue;
};

static bool see_refused(void *arg, const struct reader_record *record)
{
    struct refused *seen = arg;
    assert_int_equal(record->seq, seen->count + 1);
    assert_int_equal(record->rejection.code, 404);
    assert_int_equal(record->body_size, size_of(seen->queue, seen->count));
    assert_true(is_body(record->body, (size_t)record->body_size));
    seen->count++;
    return true;
}

static void fail_at_damage(void *arg, uint32_t queue, uint64_t seq, const char *what)
{
    (void)arg;
    fail_msg("queue %u, message %llu: %s", queue, (unsigned long long)seq, what);
}

static void assert_all_is_there(struct home *home, uint32_t queues)
{
    struct reader *reader;
    for (uint32_t id = 1; id <= queues; id++) {
        struct store_queue queue = home_queue(home, id);
        assert_int_equal(queue.next_seq, REFUSED + 3 + WAITING + 1);
        assert_int_equal(queue.messages, WAITING);
        assert_int_equal(queue.rejected, REFUSED);
        assert_int_equal(queue.bytes, bytes_of(id));
        struct seen seen = home_read(home, id, 0);
        assert_int_equal(seen.count, WAITING);
        assert_int_equal(seen.damaged_count, 0);
        for (unsigned n = 0; n < WAITING; n++) {
            assert_int_equal(seen.seq[n], REFUSED + 3 + 1 + n);
            assert_int_equal(seen.body_size[n], size_of(id, n));
        }
    }
    assert_int_equal(reader_open(&reader, home->spool, &home->failure), STATUS_OK);
    for (uint32_t id = 1; id <= queues; id++) {
        struct refused seen = {.queue = id};
        assert_int_equal(reader_records(reader, id, 0, READER_BODIES | READER_REJECTED, see_refused,
                                        fail_at_damage, &seen, &home->failure),
                         STATUS_OK);
        assert_int_equal(seen.count, REFUSED);
    }
    reader_close(reader);
}

/* Names of databases, and what `meta` holds. */
static bool has_name(struct home *home, const char *database, const char *name)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    ENSURE(mdb_env_create(&env) == 0 && mdb_env_set_maxdbs(env, 4) == 0);
    ENSURE(mdb_env_open(env, home->spool, MDB_RDONLY, 0600) == 0);
    ENSURE(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn) == 0);
    bool found = false;
    if (database) {
        MDB_val key = {strlen(name), (void *)(uintptr_t)name}, value;
        ENSURE(mdb_dbi_open(txn, database, 0, &dbi) == 0);
        found = mdb_get(txn, dbi, &key, &value) == 0;
    } else {
        found = mdb_dbi_open(txn, name, 0, &dbi) == 0;
    }
    mdb_txn_abort(txn);
    mdb_env_close(env);
    return found;
}

static void test_all_moves(void **state)
{
    struct home *home = *state;
    make(home, QUEUES);
    home_open(home);
    assert_all_is_there(home, QUEUES);
    home_reopen(home);
    assert_all_is_there(home, QUEUES);
    home_reopen(home); /* LMDB gives up its locks with the reader, which this process has closed */
    home_begin(home);
    assert_int_equal(home_append(home, 1, 10), REFUSED + 3 + WAITING + 1);
    assert_int_equal(store_delete(home->store, 7, REFUSED + 3 + 1, &home->failure), STATUS_OK);
    assert_int_equal(home_put_queue(home, "user-3", "/"), 3);
    assert_int_equal(home_put_queue(home, "new", "/"), QUEUES + 1);
    home_commit(home);
    home_close(home);
    assert_false(has_name(home, NULL, "q/1"));
    assert_false(has_name(home, NULL, "b/200"));
    assert_false(has_name(home, "meta", "migration"));
}

static void test_empty_spool(void **state)
{
    struct home *home = *state;
    make(home, 0);
    home_open(home);
    home_fill(home, 1, 10);
    home_reopen(home);
    assert_int_equal(home_queue(home, 1).messages, 1);
}

/* Counters of format 1 have no checksum: they are counted while their messages are moved. */
static void test_counters_are_not_believed(void **state)
{
    struct home *home = *state;
    struct v1 v1 = v1_open(home->spool);
    struct v1_queue q = v1_begin_queue(&v1, 1);
    append(&q, 10, NULL);
    append(&q, 20, NULL);
    q.messages = 1000000;
    q.bytes = 7;
    q.refused = 3;
    q.next_seq = 1;
    v1_end_queue(&q, "shop", "/");
    v1_close(&v1);
    home_open(home);
    struct store_queue queue = home_queue(home, 1);
    assert_int_equal(queue.messages, 2);
    assert_int_equal(queue.bytes, 2 * (METHOD_BYTES + HEADER_BYTES) + 30);
    assert_int_equal(queue.rejected, 0);
    assert_int_equal(queue.next_seq, 3);
}

/* A damaged record is still there, and an entry that cannot be read keeps nobody else from going
 * on.
 */
static void test_damage_moves_too(void **state)
{
    struct home *home = *state;
    make(home, 3);
    static const uint8_t id[] = {0, 0, 0, 2}, seq[] = {0, 0, 0, 0, 0, 0, 0, REFUSED + 3 + 2};
    backdoor_flip(home, "q/1", seq, sizeof seq);
    struct backdoor door = backdoor_open(home, "queues");
    backdoor_put(&door, id, sizeof id, (const uint8_t *)"nonsense", 8);
    backdoor_close(&door);
    home_open(home);
    struct seen seen = home_read(home, 1, 0);
    assert_int_equal(seen.count, WAITING - 1);
    assert_int_equal(seen.damaged_count, 1);
    assert_int_equal(seen.damaged[0], REFUSED + 3 + 2);
    assert_int_equal(home_queue(home, 1).messages, WAITING);
    assert_int_equal(home_queue(home, 2).next_seq, 0); /* nobody knows whose it is */
    assert_int_equal(home_read(home, 3, 0).count, WAITING);

    struct reader *reader; /* its messages are there all the same */
    struct refused refused = {.queue = 2};
    assert_int_equal(reader_open(&reader, home->spool, &home->failure), STATUS_OK);
    assert_int_equal(reader_records(reader, 2, 0, READER_BODIES | READER_REJECTED, see_refused,
                                    fail_at_damage, &refused, &home->failure),
                     STATUS_OK);
    assert_int_equal(refused.count, REFUSED);
    reader_close(reader);
}

/* ---- damaged pages ---- */

enum { PAGE = 4096, MANY = 60 };

static void make_long(struct home *home)
{
    struct v1 v1 = v1_open(home->spool);
    for (uint32_t id = 1; id <= 2; id++) {
        struct v1_queue q = v1_begin_queue(&v1, id);
        for (unsigned n = 0; n < MANY; n++)
            append(&q, n % 20 == 0 ? LARGE : 300 + n, NULL);
        v1_end_queue(&q, id == 1 ? "alice" : "bob", "/");
    }
    v1_close(&v1);
}

static long data_size(const struct home *home, int *fd)
{
    char name[128];
    struct stat st;
    snprintf(name, sizeof name, "%s/data.mdb", home->spool);
    *fd = open(name, O_RDWR);
    ENSURE(*fd >= 0 && fstat(*fd, &st) == 0);
    return st.st_size;
}

/* Each page in turn is zeroed: what can be read comes across, and nothing ends. */
static void test_each_page(void **state)
{
    struct home *home = *state;
    unsigned opened = 0, whole = 0, other = 0, pages = 0;
    make_long(home);
    int fd;
    size_t len = (size_t)data_size(home, &fd);
    uint8_t *good = malloc(len), zeros[PAGE] = {0};
    ENSURE(good && pread(fd, good, len, 0) == (ssize_t)len);
    for (size_t page = 2; page < len / PAGE; page++, pages++) {
        ENSURE(ftruncate(fd, 0) == 0 && pwrite(fd, good, len, 0) == (ssize_t)len);
        ENSURE(pwrite(fd, zeros, PAGE, (off_t)(page * PAGE)) == PAGE);
        struct store_options options = {
            .path = home->spool, .max_size_bytes = HOME_MAX_SIZE, .sync = STORE_SYNC_NEVER};
        if (store_open(&home->store, &options, &home->failure) != STATUS_OK) {
            home->store = NULL;
            continue;
        }
        opened++;
        unsigned alice = home_queue(home, 1).id && home_queue(home, 1).next_seq
                             ? home_read(home, 1, 0).count
                             : 0;
        unsigned bob = home_queue(home, 2).next_seq ? home_read(home, 2, 0).count : 0;
        home_reopen(home);
        whole += alice == MANY && bob == MANY;
        other += alice == MANY || bob == MANY;
        home_close(home);
    }
    close(fd);
    free(good);
    assert_true(opened >= pages * 8 / 10); /* but for what all queues hang on */
    assert_int_equal(other, opened);       /* lists have no page in common */
    assert_true(whole < opened);
}

/* ---- killed, and with a full disk ---- */

/* True if the child was killed at that visit; false if it came to its end before. */
static bool open_until_killed(struct home *home, unsigned visit)
{
    char at[64];
    int status;
    snprintf(at, sizeof at, "in_migration:%u", visit);
    pid_t child = fork();
    ENSURE(child >= 0);
    if (child == 0) {
        struct store_options options = {
            .path = home->spool, .max_size_bytes = HOME_MAX_SIZE, .sync = STORE_SYNC_COMMIT};
        setenv("AMQPBUF_TEST_CRASH_AT", at, 1);
        _exit(store_open(&home->store, &options, &home->failure) == STATUS_OK ? 0 : 1);
    }
    ENSURE(waitpid(child, &status, 0) == child);
    ENSURE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

/* Killed before and after each commit of a migration in turn, and at the same visit each time that
 * it goes on, until that comes to its end before. */
static void test_killed_anywhere(void **state)
{
    struct home *home = *state;
    unsigned kills = 0;
    struct reader *reader;
    bool goes_on = true;
    for (unsigned visit = 1; goes_on; visit++) {
        make(home, QUEUES);
        goes_on = open_until_killed(home, visit);
        for (unsigned round = 0; goes_on && round < ROUNDS_MAX; round++) {
            kills++;
            if (reader_open(&reader, home->spool, &home->failure) == STATUS_OK) {
                reader_close(reader); /* killed behind the last commit */
                break;
            }
            assert_int_equal(home->failure.status, STATUS_VERSION);
            if (!open_until_killed(home, visit))
                break; /* at its first two visits it does not get further */
        }
        home_open(home);
        assert_all_is_there(home, QUEUES);
        home_close(home);
        remove_tree(home->spool);
    }
    print_message("%u kills\n", kills);
    assert_true(kills >= 100);
    make(home, 1); /* for the teardown */
}

enum { LONG = 1200 };

struct counted {
    unsigned count, wrong, damaged;
    uint64_t last_seq;
};

static bool count_sound(void *arg, const struct store_record *record)
{
    struct counted *counted = arg;
    uint8_t body[LARGE];
    size_t len = 0;
    counted->count++;
    for (size_t i = 0; i < record->body_count && len + record->body[i].iov_len <= LARGE; i++) {
        memcpy(body + len, record->body[i].iov_base, record->body[i].iov_len);
        len += record->body[i].iov_len;
    }
    counted->wrong += record->seq <= counted->last_seq || len != LARGE || !is_body(body, len);
    counted->last_seq = record->seq;
    return true;
}

static void count_damaged(void *arg, uint64_t seq)
{
    (void)seq;
    ((struct counted *)arg)->damaged++;
}

static void make_long_list(struct home *home)
{
    struct v1 v1 = v1_open(home->spool);
    struct v1_queue q = v1_begin_queue(&v1, 1);
    for (unsigned n = 0; n < LONG; n++)
        append(&q, LARGE, NULL);
    v1_end_queue(&q, "shop", "/");
    v1_close(&v1);
}

/* In the middle of the file is a part of a body. */
static void damage_a_part(const struct home *home)
{
    int fd;
    static const uint8_t zeros[PAGE];
    off_t middle = data_size(home, &fd) / 2 / PAGE * PAGE;
    ENSURE(pwrite(fd, zeros, PAGE, middle) == PAGE);
    close(fd);
}

/* The same in the middle of lists that take several steps; of damaged ones nothing is deleted. */
static void test_killed_in_long_lists(void **state)
{
    struct home *home = *state;
    for (unsigned damaged = 0; damaged < 2; damaged++) {
        bool goes_on = true;
        for (unsigned visit = 3; goes_on; visit++) {
            struct counted counted = {0};
            make_long_list(home);
            if (damaged)
                damage_a_part(home);
            goes_on = open_until_killed(home, visit);
            home_open(home);
            assert_int_equal(home_queue(home, 1).messages, LONG);
            assert_int_equal(home_queue(home, 1).bytes,
                             LONG * (METHOD_BYTES + HEADER_BYTES + LARGE));
            struct store_visitor visitor = {
                .visit = count_sound, .damaged = count_damaged, .arg = &counted};
            assert_int_equal(store_read(home->store, 1, 0, &visitor, &home->failure), STATUS_OK);
            assert_int_equal(counted.count, LONG - damaged);
            assert_int_equal(counted.damaged, damaged);
            assert_int_equal(counted.wrong, 0);
            home_close(home);
            remove_tree(home->spool);
        }
    }
    make(home, 1); /* for the teardown */
}

#define WITH_HOME(test) cmocka_unit_test_setup_teardown(test, home_setup, home_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_HOME(test_all_moves),
        WITH_HOME(test_empty_spool),
        WITH_HOME(test_counters_are_not_believed),
        WITH_HOME(test_damage_moves_too),
        WITH_HOME(test_each_page),
        WITH_HOME(test_killed_anywhere),
        WITH_HOME(test_killed_in_long_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
