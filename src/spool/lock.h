#pragma once

/* Calls of LMDB that take its locks in lock.mdb. Other processes take them too, for a moment: who
 * reads, to find a place in the table of readers; mdb_copy without -c, while it copies the first
 * two pages. If such a process is stopped, or what it writes to hangs, in just that moment, the
 * call does not come back before it goes on or ends: LMDB has no other way. others_are_awaited is
 * true meanwhile. */

#include <lmdb.h>

/* mdb_txn_begin. */
int lock_begin(MDB_env *, unsigned flags, MDB_txn **);
/* mdb_reader_check: how many readers were dead. */
int lock_evict_dead(MDB_env *);
