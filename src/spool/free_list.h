#pragma once

/* LMDB's database of free pages: under the number of each transaction a list of the pages that it
 * freed, their count in front. lmdb.h does not promise this; mdb_stat(1) relies on it too. */

#include <stdbool.h>
#include <stddef.h>

#include <lmdb.h>

#include "spool/page_set.h"

/* One list; false: no more of them. */
typedef bool (*free_list_visit)(void *arg, size_t freed_by, const size_t *pages, size_t count);

/* Calls visit for each list of the state that `txn` sees, oldest first: LMDB takes pages in this
 * order, those of a list from the lowest number on; but where it needs several pages in a row it
 * puts lists together, under the number of a later one. Returns an LMDB error; MDB_CORRUPTED if a
 * page of the database is damaged: not all of it was visited then. */
int free_list_walk(MDB_txn *, free_list_visit, void *arg);
/* Adds all of those pages for which the set has bits. */
int free_list_collect(MDB_txn *, struct page_set *);
