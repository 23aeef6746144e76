#pragma once

/* From format 1, which had three databases for each queue, to format 2.
 *
 * Done in steps, each a transaction of a few MiB that moves records and keeps in `meta` how far it
 * has come. So it may be killed anywhere, or find the disk full, and the next start goes on. From
 * the first step on the version in `meta` is 2: a program that knows format 1 alone refuses the
 * spool. */

#include <stdint.h>

#include <lmdb.h>

#include "amqpbuf/status.h"

/* STATUS_OK if a spool of that version, as `txn` sees it, is whole and of this program's format;
 * STATUS_VERSION, with what can be done, if it is not. */
enum status migration_check(MDB_txn *, uint32_t version, struct failure *);

/* Migrates the spool if it is of format 1, or was left in the middle of it; to be called before any
 * other write. `settle` is called after each step, outside of a transaction: it makes what was
 * committed safe, where commits alone do not. The log tells how far it is. */
enum status migration_run(MDB_env *, enum status (*settle)(void *arg, struct failure *), void *arg,
                          struct failure *);
