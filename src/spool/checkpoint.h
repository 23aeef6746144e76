#pragma once

/* What a power cut may take under `spool.sync = interval`: no more than came since the last
 * checkpoint.
 *
 * Commits are not synced then (MDB_NOSYNC), and the kernel writes pages in any order: after a power
 * cut LMDB's newest meta page may point at pages that never reached the disk. So, once an interval,
 * data.mdb is synced, its two meta pages are copied to DIR/checkpoint, and that is synced too; a
 * read transaction keeps the pages of that state from being used again until the next checkpoint.
 * Whoever opens the spool first after the machine went down puts the meta pages back.
 *
 * The end of the process alone loses nothing: the kernel has what was committed. Which of the two
 * happened is told by the machine's boot id (random(4), /proc/sys/kernel/random/boot_id). Where
 * that cannot be read no checkpoint is begun, and none is put back: STATUS_INVALID. */

#include <stdbool.h>
#include <stdint.h>

#include <lmdb.h>

#include "amqpbuf/status.h"

struct checkpoint {
    int fd;             /* of DIR/checkpoint; -1: none is kept */
    MDB_txn *held;      /* sees the state that was saved last */
    uint64_t txnid;     /* its number */
    uint64_t last_page; /* that it has */
    unsigned slot;      /* where the next one goes; the other one stays valid meanwhile */
    bool is_doubted;    /* a sync has failed since: see spool/unsynced.h */
};

/* True if the machine went down since the checkpoint in `path` was taken and nobody has put it
 * back: the spool must not be read before checkpoint_restore. One of another data.mdb does not
 * count. */
bool checkpoint_is_due(const char *path);
/* Goes back to the checkpoint in `path` if that is due; *restored says whether it was. For whoever
 * holds the spool's lock, before LMDB opens it. */
enum status checkpoint_restore(const char *path, bool *restored, struct failure *);

/* Starts keeping checkpoints, and takes the first. A file that is there already is used again: its
 * blocks are there on a full disk, too. */
enum status checkpoint_begin(struct checkpoint *, const char *path, MDB_env *, struct failure *);
/* Syncs all that is committed, and makes it the state to go back to. Not inside a write
 * transaction. If it fails the last one stays, and the next one writes again what the failed sync
 * may have lost. */
enum status checkpoint_take(struct checkpoint *, MDB_env *, struct failure *);
/* Syncs all that is committed, and lets go of the checkpoint; the file stays, and says that there
 * is none. If the sync fails the checkpoint stays valid. So does the one before, of another
 * process, if checkpoint_begin has failed: which slot counts is not known then. */
enum status checkpoint_end(struct checkpoint *, MDB_env *, struct failure *);
/* Somebody has removed the file, or put another in its place: goes on in a new one. */
enum status checkpoint_renew(struct checkpoint *, const char *path, MDB_env *, struct failure *);
/* For a spool that is to keep none: syncs all that is committed, and removes the file, if there is
 * one. */
enum status checkpoint_remove(const char *path, MDB_env *, struct failure *);
