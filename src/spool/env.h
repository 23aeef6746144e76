#pragma once

/* A thin wrapper around an LMDB environment: opened with the right modes, errors mapped. Shared by
 * the store and the read-only reader. */

#include <stdbool.h>
#include <stdint.h>

#include <lmdb.h>

#include "amqpbuf/status.h"

enum { ENV_DATABASES_MAX = 4096 };

/* Translates an LMDB or system error into `failure`, with what was being done. */
enum status env_error(struct failure *, int error, const char *doing);

/* Opens the environment in directory `path` with LMDB's flags (MDB_RDONLY for a reader). */
enum status env_open(MDB_env **env, const char *path, uint64_t map_size, unsigned flags,
                     struct failure *);

/* Pages in use and the size of a page in bytes. Pages in LMDB's free list do not count. `txn` is
 * a read transaction: LMDB shows its free list to no other. */
enum status env_used_pages(MDB_env *, MDB_txn *, uint64_t *used, uint64_t *page_bytes,
                           struct failure *);

/* The format version in `meta`; STATUS_NOT_FOUND in a new environment. */
enum status env_read_version(MDB_txn *, MDB_dbi *meta, uint32_t *version, struct failure *);
