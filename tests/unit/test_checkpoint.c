/* What a power cut takes under `spool.sync = interval`: a torn checkpoint leaves the one before. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "spool/big_endian.h"
#include "spool/checkpoint.h"

enum {
    SLOT_BYTES = 256 * 1024,
    AT_TXNID = 8,
    AT_BOOT = 32,
    AT_DOUBT = 524288
}; /* docs/spool-format.md */

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

/* What LMDB and the checkpoint call for a sync, here. */
static struct {
    int slots; /* the checkpoint's file, to look at; 0: nobody looks */
    bool fails;
    char doubt; /* as it was in the first sync */
    unsigned calls;
} syncs;

static char doubt_of(int slots)
{
    char doubt = 0; /* where nothing was written yet */
    (void)!pread(slots, &doubt, 1, AT_DOUBT);
    return doubt;
}

/* What is done to the checkpoint's file: "0" and "1" are writes of these slots, "s" is a sync. */
static struct {
    int slots; /* its descriptor; 0: nobody looks */
    char text[32];
} steps;

static void note_step(int fd, char step)
{
    size_t len = strlen(steps.text);
    if (steps.slots && fd == steps.slots && len + 1 < sizeof steps.text)
        steps.text[len] = step;
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
    if (offset < AT_DOUBT && len > 8)
        note_step(fd, offset < SLOT_BYTES ? '0' : '1');
    return syscall(SYS_pwrite64, fd, bytes, len, offset);
}

int fdatasync(int fd)
{
    note_step(fd, 's');
    if (syncs.slots && syncs.calls++ == 0)
        syncs.doubt = doubt_of(syncs.slots);
    if (!syncs.slots || !syncs.fails)
        return (int)syscall(SYS_fdatasync, fd);
    errno = EIO;
    return -1;
}

static bool has_no_room;

int fallocate(int fd, int mode, off_t offset, off_t len)
{
    if (!has_no_room)
        return (int)syscall(SYS_fallocate, fd, mode, offset, len);
    errno = ENOSPC;
    return -1;
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

static void kill_process(struct fixture *f)
{
    mdb_txn_abort(f->checkpoint.held);
    close(f->checkpoint.fd);
    mdb_env_close(f->env);
    f->checkpoint = (struct checkpoint){.fd = -1};
}

/* The power is cut and comes back: another boot. */
static void cut(struct fixture *f)
{
    kill_process(f);
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
    kill_process(f);
    assert_false(checkpoint_is_due(f->folder));
    assert_int_equal(checkpoint_restore(f->folder, &restored, &f->failure), STATUS_OK);
    assert_false(restored);
    open_env(f);
    assert_true(has(f, 4));
}

static void assert_nothing_to_restore(struct fixture *f)
{
    bool restored = true;
    assert_false(checkpoint_is_due(f->folder));
    assert_int_equal(checkpoint_restore(f->folder, &restored, &f->failure), STATUS_OK);
    assert_false(restored);
    open_env(f);
    for (uint32_t number = 1; number <= 4; number++)
        assert_true(has(f, number));
}

static void test_a_clean_end_leaves_none(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(checkpoint_end(&f->checkpoint, f->env, &f->failure), STATUS_OK);
    assert_int_equal(f->checkpoint.fd, -1);
    f->checkpoint.fd = open_slots(f); /* the file stays, with its blocks */
    struct stat st;
    assert_int_equal(fstat(f->checkpoint.fd, &st), 0);
    assert_true((uint64_t)st.st_blocks * 512 >= 2 * SLOT_BYTES);
    cut(f);
    assert_nothing_to_restore(f);
}

/* Whoever changes to spool.sync = commit. */
static void test_removed_one_is_gone(void **state)
{
    struct fixture *f = *state;
    kill_process(f);
    open_env(f);
    assert_int_equal(checkpoint_remove(f->folder, f->env, &f->failure), STATUS_OK);
    char path[96];
    snprintf(path, sizeof path, "%s/checkpoint", f->folder);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(checkpoint_remove(f->folder, f->env, &f->failure), STATUS_OK);
    assert_true(has(f, 4));
}

/* The checkpoint of another boot has the number of a state that never was, or of another spool. */
static void test_old_one_with_a_higher_number_does_not_come_back(void **state)
{
    struct fixture *f = *state;
    cut(f);
    assert_restores(f, true);
    assert_int_equal(checkpoint_begin(&f->checkpoint, f->folder, f->env, &f->failure), STATUS_OK);
    put(f, 4);
    kill_process(f);
    assert_nothing_to_restore(f);
}

/* Each power cut in the middle of a start leaves the state that it started from. */
static void test_a_start_spares_the_one_that_counts(void **state)
{
    struct fixture *f = *state;
    int before = open_slots(f);
    unsigned newest = number_of(before, 1) > number_of(before, 0);
    uint64_t number = number_of(before, newest);
    close(before);
    kill_process(f);
    open_env(f);
    assert_int_equal(checkpoint_begin(&f->checkpoint, f->folder, f->env, &f->failure), STATUS_OK);
    int fd = open_slots(f);
    assert_true(number_of(fd, newest ^ 1) > number);
    close(fd);
    cut(f);
    bool restored = false;
    assert_int_equal(checkpoint_restore(f->folder, &restored, &f->failure), STATUS_OK);
    assert_true(restored);
    open_env(f);
    assert_true(has(f, 4));
}

/* The process ends, and then the power is cut. */
static void test_a_start_that_fails_leaves_the_one_that_counts(void **state)
{
    struct fixture *f = *state;
    kill_process(f);
    open_env(f);
    has_no_room = true;
    assert_int_equal(checkpoint_begin(&f->checkpoint, f->folder, f->env, &f->failure),
                     STATUS_NO_SPACE);
    has_no_room = false;
    assert_int_equal(checkpoint_end(&f->checkpoint, f->env, &f->failure), STATUS_OK);
    f->checkpoint.fd = open_slots(f); /* for cut, which closes it */
    cut(f);
    assert_restores(f, true);
}

/* Its sync may have failed: then the disk has another one under it. */
static void test_a_start_syncs_the_one_that_counts_first(void **state)
{
    struct fixture *f = *state;
    int fd = open_slots(f);
    unsigned newest = number_of(fd, 1) > number_of(fd, 0);
    close(fd);
    kill_process(f);
    open_env(f);
    memset(steps.text, 0, sizeof steps.text);
    steps.slots = dup(STDIN_FILENO); /* the checkpoint's will be the same */
    close(steps.slots);
    assert_int_equal(checkpoint_begin(&f->checkpoint, f->folder, f->env, &f->failure), STATUS_OK);
    assert_int_equal(f->checkpoint.fd, steps.slots);
    assert_memory_equal(steps.text, newest ? "1s0s" : "0s1s", 4);
    steps.slots = 0;
    kill_process(f);
    open_env(f);
}

/* A backup is put in the place of data.mdb: going back to what that one was would spoil it. */
static void test_one_of_another_data_file_does_not_count(void **state)
{
    struct fixture *f = *state;
    char copy[96], data[96], copied[112];
    snprintf(copy, sizeof copy, "%s/copy", f->folder);
    snprintf(data, sizeof data, "%s/data.mdb", f->folder);
    snprintf(copied, sizeof copied, "%s/data.mdb", copy);
    assert_int_equal(mkdir(copy, 0700), 0);
    assert_int_equal(mdb_env_copy2(f->env, copy, MDB_CP_COMPACT), 0);
    cut(f);
    assert_true(checkpoint_is_due(f->folder));
    assert_int_equal(rename(copied, data), 0);
    assert_int_equal(rmdir(copy), 0);
    assert_nothing_to_restore(f);
    assert_int_equal(checkpoint_begin(&f->checkpoint, f->folder, f->env, &f->failure), STATUS_OK);
    put(f, 5);
    cut(f);
    bool restored = false;
    assert_int_equal(checkpoint_restore(f->folder, &restored, &f->failure), STATUS_OK);
    assert_true(restored);
    open_env(f);
    assert_true(has(f, 4));
    assert_false(has(f, 5));
}

/* Who is killed in a sync does not hear how it ended: the next process cannot believe it. */
static void test_a_sync_is_in_doubt_until_it_has_ended_well(void **state)
{
    struct fixture *f = *state;
    syncs.slots = open_slots(f);
    for (unsigned fails = 0; fails < 2; fails++) {
        put(f, 5 + fails);
        syncs.calls = 0;
        syncs.fails = fails;
        assert_int_equal(checkpoint_take(&f->checkpoint, f->env, &f->failure),
                         fails ? STATUS_IO : STATUS_OK);
        assert_true(syncs.calls > 0);
        assert_int_equal(syncs.doubt, 1);
        assert_int_equal(doubt_of(syncs.slots), fails);
        assert_int_equal(f->checkpoint.is_doubted, fails);
    }
    kill_process(f);
    open_env(f);
    assert_int_equal(checkpoint_begin(&f->checkpoint, f->folder, f->env, &f->failure), STATUS_IO);
    assert_true(f->checkpoint.is_doubted);
    syncs.fails = false;
    assert_int_equal(checkpoint_take(&f->checkpoint, f->env, &f->failure), STATUS_OK);
    assert_int_equal(doubt_of(syncs.slots), 0);
    close(syncs.slots);
    syncs.slots = 0;
    kill_process(f);
    open_env(f);
}

/* Where it cannot be said that one is under way. */
static void test_a_sync_that_cannot_be_doubted_is_tried_all_the_same(void **state)
{
    struct fixture *f = *state;
    int writable = f->checkpoint.fd;
    char path[96];
    snprintf(path, sizeof path, "%s/checkpoint", f->folder);
    f->checkpoint.fd = open(path, O_RDONLY);
    syncs.slots = f->checkpoint.fd;
    syncs.calls = 0;
    assert_int_equal(checkpoint_take(&f->checkpoint, f->env, &f->failure), STATUS_IO);
    assert_true(syncs.calls > 0);
    assert_false(f->checkpoint.is_doubted);
    close(f->checkpoint.fd);
    f->checkpoint.fd = writable;
    assert_int_equal(checkpoint_take(&f->checkpoint, f->env, &f->failure), STATUS_OK);
    syncs.slots = 0;
    kill_process(f);
    open_env(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_start_that_fails_leaves_the_one_that_counts, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_start_syncs_the_one_that_counts_first, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_one_of_another_data_file_does_not_count, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_sync_is_in_doubt_until_it_has_ended_well, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_sync_that_cannot_be_doubted_is_tried_all_the_same,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_newest_is_put_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn_one_leaves_the_one_before, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_put_back_in_the_same_boot, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_clean_end_leaves_none, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removed_one_is_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_old_one_with_a_higher_number_does_not_come_back, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_start_spares_the_one_that_counts, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
