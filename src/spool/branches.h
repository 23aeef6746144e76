#pragma once

/* The pages between the root of a tree and its leaves. LMDB reads them on its way to every key, and
 * writes to them when a leaf is split or put together with another; it checks nothing of them, and
 * a damaged one that can still be read through may make it write anywhere. */

#include <lmdb.h>

#include "spool/page.h"

/* Keys from `from` on and before `to` hang on a damaged page or on one beside it, which LMDB may
 * put together with it. Without bytes: from the first, or to the last. */
typedef void (*branches_damaged)(void *arg, MDB_val from, MDB_val to);
/* Looks at all of a database's, which are about one page in a hundred. Returns an LMDB error or 0;
 * MDB_CORRUPTED if it cannot be told which keys are affected. */
int branches_check(MDB_txn *, const struct page_map *, const char *database, branches_damaged,
                   void *arg);
/* True if none is damaged. */
bool branches_are_sound(MDB_txn *, const struct page_map *, const char *database);
/* The same of LMDB's own database of free pages. */
bool branches_of_free_are_sound(MDB_txn *, const struct page_map *);
