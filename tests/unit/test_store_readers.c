/* Other processes that read an old state of the spool: dead ones are evicted, those that stand
 * still are known by their pid, and what waits can be deleted whatever they hold. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/spool_home.h"

enum {
    SMALL_MAX_SIZE = 8 * 1024 * 1024,
    BODY_BYTES = 1000,
    TABLE_OF_READERS = 126,
    DELETED_AT_ONCE = 16,
};

/* A process in the middle of a read transaction, as a stopped amqpbuf-inspect or a backup into a
 * pipe that nobody reads. */
static pid_t start_reader(const struct home *home)
{
    int told[2];
    char byte;
    assert_int_equal(pipe(told), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        MDB_env *env;
        MDB_txn *txn;
        for (int fd = 3; fd < 64; fd++) /* above all the store's lock */
            if (fd != told[1])
                close(fd);
        bool reads = mdb_env_create(&env) == 0 &&
                     mdb_env_open(env, home->spool, MDB_RDONLY | MDB_NOTLS, 0600) == 0 &&
                     mdb_txn_begin(env, NULL, MDB_RDONLY, &txn) == 0;
        ENSURE(write(told[1], reads ? "y" : "n", 1) == 1);
        for (;;)
            pause();
    }
    close(told[1]);
    assert_int_equal(read(told[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    close(told[0]);
    return child;
}

static void kill_reader(pid_t child)
{
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

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

static void open_small(struct home *home)
{
    struct store_options options = {
        .path = home->spool, .max_size_bytes = SMALL_MAX_SIZE, .sync = STORE_SYNC_NEVER};
    assert_int_equal(store_open(&home->store, &options, &home->failure), STATUS_OK);
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
    for (unsigned i = 0; i < TABLE_OF_READERS; i++) {
        /* A place that the store has taken already is no more to be had. */
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            MDB_env *env;
            MDB_txn *txn;
            if (mdb_env_create(&env) == 0 &&
                mdb_env_open(env, home->spool, MDB_RDONLY | MDB_NOTLS, 0600) == 0)
                mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
            kill(getpid(), SIGKILL);
        }
        assert_int_equal(waitpid(child, NULL, 0), child);
    }
    assert_int_equal(store_rest(home->store, &home->failure), STATUS_OK);
    assert_int_equal(store_holder(home->store).pid, 0);
    delete_all(home, queue);
    assert_true(fill(home, queue) > 1000);
}

/* The same once the store holds no place in the table: it is opened among them. */
static void test_opened_among_dead_readers(void **state)
{
    struct home *home = *state;
    uint32_t queue = open_full(home);
    pid_t alive = start_reader(home); /* keeps the table as it is */
    kill_reader(start_reader(home));
    home_close(home);
    open_small(home);
    delete_all(home, queue);
    assert_int_equal(store_holder(home->store).pid, alive);
    kill_reader(alive);
    assert_true(fill(home, queue) > 1000);
}

#define WITH_HOME(test) cmocka_unit_test_setup_teardown(test, home_setup, home_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_HOME(test_deletes_beside_a_reader_that_stands_still),
        WITH_HOME(test_dead_reader_with_the_own_number),
        WITH_HOME(test_table_full_of_dead_readers),
        WITH_HOME(test_opened_among_dead_readers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
