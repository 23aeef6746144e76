#pragma once

/* Transactions that read. Each has a place in LMDB's table of readers; an environment keeps those
 * that it has had, so that no other process can take the last one, and none of LMDB's locks is
 * needed to begin. */

#include <lmdb.h>

enum { VIEWS_OF_STORE = 3, VIEWS_OF_READER = 1 };

/* Of an environment that is being made: up to so many places stay its own. */
void view_init(MDB_env *, unsigned kept);
/* Takes all of them now. Returns an LMDB error. */
int view_take_places(MDB_env *);
/* A transaction that reads the last commit. Where no place is kept, one is taken; readers that died
 * are evicted if the table is full. EBUSY: a process of another pid namespace with the number of
 * this one reads the spool, too. */
int view_begin(MDB_env *, MDB_txn **);
void view_end(MDB_txn *);
/* Ends it; databases that were opened in it stay open. */
int view_commit(MDB_txn *);
/* Before mdb_env_close, when all have ended. */
void view_free(MDB_env *);
