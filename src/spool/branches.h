#pragma once

/* The pages between the root of a tree and its leaves. LMDB reads them on its way to every key, and
 * writes to them when a leaf is split or put together with another; it checks nothing of them, and
 * a damaged one that can still be read through may make it write anywhere. */

#include <lmdb.h>

#include "spool/page.h"

/* Keys from `from` on and before `to`. Without bytes: from the first, or to the last. */
struct branches_range {
    MDB_val from, to;
};

/* What of the tree may be damaged: its branches are about one page in a hundred. */
enum branches_depth { BRANCHES_ALONE, BRANCHES_AND_LEAVES };

/* Looks at all pages of a database. damaged() gets the keys that hang on a damaged page, and on
 * those beside it, which LMDB may put together with it. Returns an LMDB error or 0; MDB_CORRUPTED
 * if it cannot be told which keys these are. */
int branches_check(MDB_txn *, const struct page_map *, const char *database, enum branches_depth,
                   void (*damaged)(void *arg, const struct branches_range *), void *arg);
/* Looks at the leaf that the key is on, or would be, and at all those that LMDB may put together
 * with it: those of the same branch. Returns an LMDB error; 0 with their range, in the map, if all
 * are sound; MDB_CORRUPTED if one is not. */
int branches_check_around(MDB_txn *, const struct page_map *, const char *database, MDB_val key,
                          struct branches_range *);

/* True if none is damaged. */
bool branches_are_sound(MDB_txn *, const struct page_map *, const char *database);
/* The same of LMDB's own database of free pages. */
bool branches_of_free_are_sound(MDB_txn *, const struct page_map *);
