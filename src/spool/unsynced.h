#pragma once

/* After a sync that failed the kernel may take pages for written that are not, and no later sync
 * writes them: it says so once (fsync(2), "EIO"; ext4 and XFS keep the page as a clean one). As
 * long as they are still in its cache, they can be written again. */

#include <stdint.h>

#include <lmdb.h>

/* Writes every page again that the newest state has and the state of `synced` has not, and both
 * meta pages. `synced` is a read transaction of a state that is on the disk as a whole, with
 * `synced_last_page` its last page; with NULL, all pages that are in use are written. For whoever
 * is the spool's only writer, outside of a transaction. Returns an LMDB error. */
int unsynced_write_again(MDB_env *, MDB_txn *synced, uint64_t synced_last_page);
