#pragma once

/* LMDB trusts its pages: on a damaged one it finds an assertion of its own broken and calls
 * abort(), or follows a pointer out of the map (SIGSEGV), or the disk cannot read the page
 * (SIGBUS). A call that only reads can be left in the middle: it holds no lock, and has changed
 * nothing.
 *
 * A call that writes cannot, because its transaction keeps pointers into the frames that are left;
 * so what is to be written to is read under guard first. */

#include <stdbool.h>

#include <lmdb.h>

/* Makes `env` tell of broken assertions, and looks at the two signals from now on. */
void guard_init(MDB_env *env);
/* As mdb_dbi_open, and searches there end under guard whatever the pages hold. */
int guard_open(MDB_txn *txn, const char *name, unsigned flags, MDB_dbi *dbi);
/* Calls run(arg). Returns what it returns, or MDB_CORRUPTED if it was left in the middle; what it
 * had allocated by then is the caller's to free. Any thread; may be nested. */
int guard_run(int (*run)(void *arg), void *arg);
/* True if LMDB, or guard_run, says so of pages that it has read. */
bool guard_is_damage(int error);
/* True if the last call of this thread that was left in the middle came to a page that is not in
 * the file, or that the disk cannot read. */
bool guard_was_unreadable(void);
