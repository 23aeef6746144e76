/* Disk space that is given back: never pages of the state before the last one, which a power cut
 * may bring back. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "spool/room.h"

enum {
    VALUES = 24,
    VALUE_BYTES = 1024 * 1024,
    MAX_BYTES = 64 * 1024 * 1024,
    FREE_BYTES = 1024 * 1024 * 1024, /* as it is told: so much that it is worth the while */
};

struct fixture {
    char folder[64];
    MDB_env *env;
    MDB_dbi dbi;
    struct room room;
};

static void commit(MDB_txn *txn)
{
    assert_int_equal(mdb_txn_commit(txn), 0);
}

static MDB_txn *begin(struct fixture *f, unsigned flags)
{
    MDB_txn *txn;
    assert_int_equal(mdb_txn_begin(f->env, NULL, flags, &txn), 0);
    return txn;
}

static void put(struct fixture *f, uint32_t number, size_t len)
{
    MDB_txn *txn = begin(f, 0);
    MDB_val key = {sizeof number, &number}, value = {len, NULL};
    assert_int_equal(mdb_put(txn, f->dbi, &key, &value, MDB_RESERVE), 0);
    memset(value.mv_data, 'x', len);
    commit(txn);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    snprintf(f->folder, sizeof f->folder, "/tmp/amqpbuf-room-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    assert_int_equal(mdb_env_create(&f->env), 0);
    assert_int_equal(mdb_env_set_mapsize(f->env, MAX_BYTES), 0);
    assert_int_equal(mdb_env_open(f->env, f->folder, MDB_NOSYNC, 0600), 0);
    MDB_txn *txn = begin(f, 0);
    assert_int_equal(mdb_dbi_open(txn, NULL, 0, &f->dbi), 0);
    commit(txn);
    for (uint32_t n = 0; n < VALUES; n++)
        put(f, n, VALUE_BYTES);
    put(f, VALUES, 1); /* stays: an empty database has no free list to look at */
    room_init(&f->room, f->env, MAX_BYTES, MAX_BYTES);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char path[96];
    room_deinit(&f->room);
    mdb_env_close(f->env);
    const char *const names[] = {"data.mdb", "lock.mdb"};
    for (unsigned i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", f->folder, names[i]);
        unlink(path);
    }
    rmdir(f->folder);
    free(f);
    return 0;
}

static uint64_t bytes_on_disk(struct fixture *f)
{
    struct stat st;
    assert_int_equal(fstat(f->room.fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void delete_each(struct fixture *f, uint32_t step)
{
    MDB_txn *txn = begin(f, 0);
    for (uint32_t n = 0; n < VALUES; n += step) {
        MDB_val key = {sizeof n, &n};
        assert_int_equal(mdb_del(txn, f->dbi, &key, NULL), 0);
    }
    commit(txn);
}

static bool is_awaited(void *arg)
{
    return *(bool *)arg;
}

static void give_step(struct fixture *f, uint64_t budget_ns, bool awaited)
{
    MDB_envinfo info;
    mdb_env_info(f->env, &info);
    assert_int_equal(room_give_back(&f->room, info.me_last_txnid, budget_ns, is_awaited, &awaited),
                     0);
}

/* All that can go. */
static void give_back(struct fixture *f)
{
    do
        give_step(f, 0, false);
    while (f->room.give_from > 0);
}

static void test_what_the_last_commit_freed_stays(void **state)
{
    struct fixture *f = *state;
    delete_each(f, 1);
    uint64_t before = bytes_on_disk(f);
    give_back(f);
    assert_true(bytes_on_disk(f) == before);
}

static void test_what_was_freed_before_goes(void **state)
{
    struct fixture *f = *state;
    delete_each(f, 1);
    put(f, 0, 1);
    uint64_t before = bytes_on_disk(f);
    give_back(f);
    assert_true(f->room.cannot_give || bytes_on_disk(f) < before / 2);
}

/* With one run of pages, of the two that a step looks for. */
static void test_a_step_ends_when_others_wait(void **state)
{
    const uint64_t long_ns = UINT64_C(3600) * 1000000000;
    struct fixture *f = *state;
    delete_each(f, 2);
    put(f, 0, 1);
    uint64_t before = bytes_on_disk(f);
    give_step(f, long_ns, true);
    uint64_t one = before - bytes_on_disk(f);
    before = bytes_on_disk(f);
    give_step(f, long_ns, false);
    assert_true(f->room.cannot_give || (one > 0 && before - bytes_on_disk(f) > one));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_the_last_commit_freed_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_freed_before_goes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_step_ends_when_others_wait, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
