/* Other processes that read an old state of the spool: dead ones are evicted, those that stand
 * still are known by their pid, and what waits can be deleted whatever they hold, also if they have
 * all places in the table of readers, or its lock. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/spool_home.h"
#include "../support/spool_readers.h"
#include "spool/others.h"

enum {
    SMALL_MAX_SIZE = 8 * 1024 * 1024,
    BODY_BYTES = 1000,
    DELETED_AT_ONCE = 16,
    HANGS_S = 60,
};

static uint64_t fill(struct home *home, uint32_t queue)
{
    uint64_t count = 0, seq;
    home_begin(home);
    while (home_try_append(home, queue, BODY_BYTES, &seq) == STATUS_OK)
        count++;
    home_commit(home);
    return count;
}

/* A few in each transaction, which is what costs pages. */
static void delete_all(struct home *home, uint32_t queue)
{
    struct store_queue found = home_queue(home, queue);
    for (uint64_t seq = found.first_seq; seq <= found.last_seq;) {
        home_begin(home);
        for (unsigned i = 0; i < DELETED_AT_ONCE && seq <= found.last_seq; i++, seq++)
            assert_int_equal(store_delete(home->store, queue, seq, &home->failure), STATUS_OK);
        home_commit(home);
    }
    assert_int_equal(home_queue(home, queue).messages, 0);
}

static void open_with(struct home *home, enum store_sync sync)
{
    struct store_options options = {
        .path = home->spool, .max_size_bytes = SMALL_MAX_SIZE, .sync = sync};
    assert_int_equal(store_open(&home->store, &options, &home->failure), STATUS_OK);
}

static void open_small(struct home *home)
{
    open_with(home, STORE_SYNC_NEVER);
}

static uint32_t open_full(struct home *home)
{
    open_small(home);
    home_begin(home);
    uint32_t queue = home_put_queue(home, "shop", "/");
    home_commit(home);
    assert_true(fill(home, queue) > 1000);
    return queue;
}

static void test_deletes_beside_a_reader_that_stands_still(void **state)
{
    struct home *home = *state;
    uint64_t seq;
    uint32_t queue = open_full(home);
    pid_t reader = start_reader(home);
    delete_all(home, queue);
    assert_int_equal(store_rest(home->store, &home->failure), STATUS_OK);
    assert_int_equal(store_holder(home->store).pid, reader);
    assert_true(store_holder(home->store).bytes > SMALL_MAX_SIZE / 2);
    assert_true(store_is_beyond(home->store));
    home_begin(home); /* its pages are not there for others: said, and the transaction goes on */
    assert_int_equal(home_try_append(home, queue, BODY_BYTES, &seq), STATUS_FULL);
    home_commit(home);

    kill_reader(reader);
    assert_true(fill(home, queue) > 1000);
    assert_int_equal(store_holder(home->store).pid, 0);
    assert_int_equal(store_holder(home->store).bytes, 0);
    assert_false(store_is_beyond(home->store));
    delete_all(home, queue);
}

static MDB_txn *left; /* of a run of this process that was killed */

/* In a container the next run has the number of the one that was killed, and another process keeps
 * the table of readers from being made anew. */
static void test_dead_reader_with_the_own_number(void **state)
{
    struct home *home = *state;
    MDB_env *env;
    char name[128];
    uint32_t queue = open_full(home);
    pid_t other = start_reader(home);
    home_close(home);
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_open(env, home->spool, MDB_RDONLY | MDB_NOTLS, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, MDB_RDONLY, &left), 0);
    /* The process's lock goes as with its end: with any descriptor of the file. */
    snprintf(name, sizeof name, "%s/lock.mdb", home->spool);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    close(fd);

    open_small(home);
    kill_reader(other);
    delete_all(home, queue);
    assert_true(fill(home, queue) > 1000);
    delete_all(home, queue);
}

static void test_table_full_of_dead_readers(void **state)
{
    struct home *home = *state;
    uint32_t queue = open_full(home);
    kill_reader(start_readers(home, (struct table_use){.readers = READERS_MAX}));
    assert_int_equal(store_rest(home->store, &home->failure), STATUS_OK);
    assert_int_equal(store_holder(home->store).pid, 0);
    delete_all(home, queue);
    assert_true(fill(home, queue) > 1000);
}

/* An amqpbuf-inspect that is killed while it prints keeps its place, and mdb_copy evicts nobody. */
static void test_dead_readers_that_read_nothing(void **state)
{
    struct home *home = *state;
    open_small(home);
    kill_reader(start_readers(home, (struct table_use){.readers = READERS_MAX, .rests = true}));
    assert_int_equal(store_rest(home->store, &home->failure), STATUS_OK);
    kill_reader(start_reader(home));
}

/* The store is opened among them. */
static void test_opened_among_dead_readers(void **state)
{
    struct home *home = *state;
    uint32_t queue = open_full(home);
    pid_t alive = start_reader(home); /* keeps the table as it is */
    kill_reader(start_readers(home, (struct table_use){.readers = READERS_MAX}));
    home_close(home);
    open_small(home);
    delete_all(home, queue);
    assert_int_equal(store_holder(home->store).pid, alive);
    kill_reader(alive);
    assert_true(fill(home, queue) > 1000);
}

/* Everything that the spooler does. */
static void use_store(struct home *home, uint32_t queue)
{
    struct failure *failure = &home->failure;
    home_begin(home);
    uint64_t seq = home_append(home, queue, BODY_BYTES);
    home_commit(home);
    assert_int_equal(store_sync(home->store, failure), STATUS_OK);
    assert_int_equal(home_read(home, queue, seq - 1).count, 1);
    home_begin(home);
    assert_int_equal(store_delete(home->store, queue, seq, failure), STATUS_OK);
    home_commit(home);
    assert_int_equal(store_probe(home->store, failure), STATUS_OK);
    assert_int_equal(store_rest(home->store, failure), STATUS_OK);
}

static void test_table_full_of_live_readers(void **state)
{
    struct home *home = *state;
    const enum store_sync syncs[] = {STORE_SYNC_COMMIT, STORE_SYNC_INTERVAL, STORE_SYNC_NEVER};
    for (unsigned i = 0; i < sizeof syncs / sizeof *syncs; i++) {
        open_with(home, syncs[i]);
        home_begin(home);
        uint32_t queue = home_put_queue(home, "shop", "/");
        home_commit(home);
        pid_t readers = start_readers(home, (struct table_use){.readers = READERS_MAX});
        use_store(home, queue);
        use_store(home, queue);
        assert_int_equal(store_holder(home->store).pid, readers);
        kill_reader(readers);
        use_store(home, queue);
        assert_int_equal(store_holder(home->store).pid, 0);
        home_close(home);
    }
}

static void test_opened_into_a_full_table(void **state)
{
    struct home *home = *state;
    char pid[32];
    open_small(home);
    home_close(home);
    pid_t readers = start_readers(home, (struct table_use){.readers = READERS_MAX});
    assert_int_equal(home_try_open(home, SMALL_MAX_SIZE), STATUS_IN_USE);
    snprintf(pid, sizeof pid, "pid %d", readers);
    assert_non_null(strstr(home->failure.text, pid));
    kill_reader(readers);
    open_small(home);
    home_begin(home);
    uint32_t queue = home_put_queue(home, "shop", "/");
    home_commit(home);
    use_store(home, queue);
}

/* A process that was stopped in the very moment in which it took a place in the table. */
static void test_lock_of_the_table_is_held(void **state)
{
    struct home *home = *state;
    char others[OTHERS_TEXT_MAX], pid[32];
    open_small(home);
    home_begin(home);
    uint32_t queue = home_put_queue(home, "shop", "/");
    home_commit(home);
    pid_t reader = start_readers(home, (struct table_use){.readers = 1, .holds_lock = true});
    alarm(HANGS_S);
    use_store(home, queue);
    use_store(home, queue);
    alarm(0);
    assert_true(others_name(home->spool, 0, others));
    snprintf(pid, sizeof pid, "%d", reader);
    assert_string_equal(others, pid);
    kill_reader(reader);
    use_store(home, queue);
    assert_false(others_name(home->spool, 0, others));
}

#define WITH_HOME(test) cmocka_unit_test_setup_teardown(test, home_setup, home_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_HOME(test_deletes_beside_a_reader_that_stands_still),
        WITH_HOME(test_dead_reader_with_the_own_number),
        WITH_HOME(test_table_full_of_dead_readers),
        WITH_HOME(test_dead_readers_that_read_nothing),
        WITH_HOME(test_opened_among_dead_readers),
        WITH_HOME(test_table_full_of_live_readers),
        WITH_HOME(test_opened_into_a_full_table),
        WITH_HOME(test_lock_of_the_table_is_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
