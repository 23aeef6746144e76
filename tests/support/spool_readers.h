#pragma once

/* Other processes that read a test's spool. cmocka's headers come first. */

#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "spool_home.h"

enum {
    READERS_MAX = 5000, /* more than the table has places */
    AT_READER_LOCK = 8, /* of LMDB 0.9 in lock.mdb */
};

struct table_use {
    unsigned readers;
    bool rests; /* each has its place, and reads nothing now */
    bool holds_lock;
};

static inline bool hold_reader_lock(const struct home *home)
{
    char name[128];
    snprintf(name, sizeof name, "%s/lock.mdb", home->spool);
    int fd = open(name, O_RDWR | O_CLOEXEC);
    uint8_t *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return at != MAP_FAILED && pthread_mutex_lock((pthread_mutex_t *)(at + AT_READER_LOCK)) == 0;
}

static inline bool use_table(const struct home *home, struct table_use use)
{
    MDB_env *env;
    MDB_txn *txn;
    int error = mdb_env_create(&env);
    if (!error)
        error = mdb_env_open(env, home->spool, MDB_RDONLY | MDB_NOTLS, 0600);
    for (unsigned i = 0; i < use.readers && !error; i++) {
        error = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
        if (!error && use.rests)
            mdb_txn_reset(txn);
    }
    bool is_done = use.readers == READERS_MAX ? error == MDB_READERS_FULL : error == 0;
    return is_done && (!use.holds_lock || hold_reader_lock(home));
}

/* A process in the middle of so many read transactions (READERS_MAX: of as many as there are places
 * for), as stopped amqpbuf-inspects or backups into pipes that nobody reads. */
static inline pid_t start_readers(const struct home *home, struct table_use use)
{
    int told[2];
    char byte;
    assert_int_equal(pipe(told), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (int fd = 3; fd < 64; fd++) /* above all the store's lock */
            if (fd != told[1])
                close(fd);
        ENSURE(write(told[1], use_table(home, use) ? "y" : "n", 1) == 1);
        for (;;)
            pause();
    }
    close(told[1]);
    assert_int_equal(read(told[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    close(told[0]);
    return child;
}

static inline pid_t start_reader(const struct home *home)
{
    return start_readers(home, (struct table_use){.readers = 1});
}

static inline void kill_reader(pid_t child)
{
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
}
