#pragma once

/* A thin wrapper around an LMDB environment: opened with the right modes, errors mapped. Shared by
 * the store and the read-only reader. */

#include <stdbool.h>
#include <stdint.h>

#include <lmdb.h>

#include "amqpbuf/status.h"

enum {
    ENV_DATABASES_MAX = 64, /* a spool has five; a migration opens some of the old ones */
    ENV_READERS_MAX = 1022, /* places in the table of readers: lock.mdb has 64 KiB then */
};

#define ENV_MAX_SIZE "max_size" /* in `meta`: spool.max_size of the last start, 8 bytes */

/* Translates an LMDB or system error into `failure`, with what was being done. */
enum status env_error(struct failure *, int error, const char *doing);

/* Opens the environment in directory `path` with LMDB's flags (MDB_RDONLY for a reader). One that
 * writes has its views from then on: STATUS_IN_USE if other processes have left no place for them.
 */
enum status env_open(MDB_env **env, const char *path, uint64_t map_size, unsigned flags,
                     struct failure *);
void env_close(MDB_env *);

/* Pages, and the size of one in bytes. */
struct env_pages {
    uint64_t used; /* not in LMDB's free list */
    uint64_t held; /* in it, but a write transaction begun now could not use them: freed by the
                      last one, or still seen by a reader */
    uint64_t bytes;
    uint64_t oldest_txnid; /* of a reader, or the last commit's: what was freed before it is free in
                              every state that anybody can come to see */
    bool is_reader_behind; /* a reader sees an older state than the last commit */
    int holder_pid;        /* the process of the oldest such reader, if it is another; else 0 */
};

/* Where readers are behind, those that died are evicted first. `txn` is a read transaction of the
 * last commit: LMDB shows its free list to no other. */
enum status env_count_pages(MDB_env *, MDB_txn *, struct env_pages *, struct failure *);

/* True if no other process that is alive has a place in LMDB's table of readers. */
bool env_is_alone(MDB_env *);

/* Returns an LMDB error. */
int env_write_version(MDB_txn *, MDB_dbi meta);
/* The format version in `meta`; STATUS_NOT_FOUND in a new environment, which has no databases. */
enum status env_read_version(MDB_txn *, MDB_dbi *meta, uint32_t *version, struct failure *);
