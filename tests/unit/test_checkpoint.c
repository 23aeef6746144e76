/* What a power cut takes under `spool.sync = interval`: a torn checkpoint leaves the one before. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "spool/big_endian.h"
#include "spool/checkpoint.h"

enum { SLOT_BYTES = 256 * 1024, AT_TXNID = 8, AT_BOOT = 32 }; /* docs/spool-format.md */

struct fixture {
    char folder[64];
    MDB_env *env;
    MDB_dbi dbi;
    struct checkpoint checkpoint;
    struct failure failure;
};

static void open_env(struct fixture *f)
{
    assert_int_equal(mdb_env_create(&f->env), 0);
    assert_int_equal(mdb_env_open(f->env, f->folder, MDB_NOSYNC | MDB_NOTLS, 0600), 0);
    MDB_txn *txn;
    assert_int_equal(mdb_txn_begin(f->env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, NULL, 0, &f->dbi), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
}

static void put(struct fixture *f, uint32_t number)
{
    MDB_txn *txn;
    MDB_val key = {sizeof number, &number}, value = {sizeof number, &number};
    assert_int_equal(mdb_txn_begin(f->env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_put(txn, f->dbi, &key, &value, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
}

static bool has(struct fixture *f, uint32_t number)
{
    MDB_txn *txn;
    MDB_val key = {sizeof number, &number}, value;
    assert_int_equal(mdb_txn_begin(f->env, NULL, MDB_RDONLY, &txn), 0);
    int found = mdb_get(txn, f->dbi, &key, &value);
    mdb_txn_abort(txn);
    assert_true(found == 0 || found == MDB_NOTFOUND);
    return found == 0;
}

/* Three states, each a checkpoint: with 1, with 1 and 2, with 1 to 3; then 4, which is in none. */
static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    snprintf(f->folder, sizeof f->folder, "/tmp/amqpbuf-checkpoint-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    open_env(f);
    f->checkpoint = (struct checkpoint){.fd = -1};
    put(f, 1);
    assert_int_equal(checkpoint_begin(&f->checkpoint, f->folder, f->env, &f->failure), STATUS_OK);
    for (uint32_t number = 2; number <= 3; number++) {
        put(f, number);
        assert_int_equal(checkpoint_take(&f->checkpoint, f->env, &f->failure), STATUS_OK);
    }
    put(f, 4);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"data.mdb", "lock.mdb", "checkpoint"};
    mdb_env_close(f->env);
    for (unsigned i = 0; i < 3; i++) {
        char path[96];
        snprintf(path, sizeof path, "%s/%s", f->folder, names[i]);
        unlink(path);
    }
    rmdir(f->folder);
    free(f);
    return 0;
}

static int open_slots(struct fixture *f)
{
    char path[96];
    snprintf(path, sizeof path, "%s/checkpoint", f->folder);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    return fd;
}

static uint64_t number_of(int fd, unsigned slot)
{
    uint8_t bytes[8];
    assert_int_equal(pread(fd, bytes, 8, (off_t)slot * SLOT_BYTES + AT_TXNID), 8);
    return big_endian_get(bytes, 8);
}

/* The power is cut and comes back: another boot. */
static void cut(struct fixture *f)
{
    checkpoint_end(&f->checkpoint);
    mdb_env_close(f->env);
    int fd = open_slots(f);
    for (unsigned slot = 0; slot < 2; slot++)
        assert_int_equal(pwrite(fd, "another", 7, (off_t)slot * SLOT_BYTES + AT_BOOT), 7);
    close(fd);
}

static void assert_restores(struct fixture *f, bool third)
{
    bool restored = false;
    assert_int_equal(checkpoint_restore(f->folder, &restored, &f->failure), STATUS_OK);
    assert_true(restored);
    open_env(f);
    assert_true(has(f, 1));
    assert_true(has(f, 2));
    assert_int_equal(has(f, 3), third);
    assert_false(has(f, 4));
}

static void test_newest_is_put_back(void **state)
{
    struct fixture *f = *state;
    cut(f);
    assert_restores(f, true);
}

static void test_torn_one_leaves_the_one_before(void **state)
{
    struct fixture *f = *state;
    cut(f);
    int fd = open_slots(f);
    unsigned newest = number_of(fd, 1) > number_of(fd, 0);
    assert_int_equal(pwrite(fd, "torn", 4, (off_t)newest * SLOT_BYTES + AT_TXNID), 4);
    close(fd);
    assert_restores(f, false);
}

static void test_nothing_is_put_back_in_the_same_boot(void **state)
{
    struct fixture *f = *state;
    bool restored = true;
    checkpoint_end(&f->checkpoint);
    mdb_env_close(f->env);
    assert_false(checkpoint_is_due(f->folder));
    assert_int_equal(checkpoint_restore(f->folder, &restored, &f->failure), STATUS_OK);
    assert_false(restored);
    open_env(f);
    assert_true(has(f, 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_newest_is_put_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn_one_leaves_the_one_before, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_put_back_in_the_same_boot, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
