#pragma once

/* The blocks on the file system under data.mdb. LMDB's map size says nothing about the disk, and a
 * deletion writes pages before it frees any: so the pages that LMDB takes next have their blocks
 * ahead of time, and appends stop when no more can be had.
 *
 * What a large backlog leaves empty is given back as holes (fallocate(2)): the file keeps its
 * length, du(1) shows what it takes. LMDB takes free pages in the order of its free list
 * (spool/free_list.h), and after them new ones at the end of the file. So of the free list the
 * front keeps its blocks, or gets them again before it is used.
 *
 * Happy path: room_has before each write; room_give_back in steps, while it says so. What can fail:
 * the disk has no blocks (room_has says so, and room_give_back then gives back all it can, so that
 * the front can have them); the file system knows no holes or no claims (then none are made, and a
 * full disk shows when a commit fails). */

#include <stdbool.h>
#include <stdint.h>

#include <lmdb.h>

#include "spool/page_set.h"

struct room {
    MDB_env *env;
    int fd; /* of data.mdb; LMDB's */
    uint64_t page_bytes;
    uint64_t map_bytes;   /* LMDB never writes behind them */
    uint64_t ahead_bytes; /* that deletions can count on */

    uint64_t claimed_bytes; /* from the beginning of the file on there are blocks, but for holes */
    struct page_set holes;  /* pages without blocks, as far as is known: some may be in use again */
    uint64_t front_bytes;   /* of the front of the free list that is known to have blocks, as of the
                               last commit; 0: it was not looked at since */
    uint64_t give_from;     /* the list where giving back goes on; 0: it is not under way */
    uint64_t give_until;    /* what is freed later is for the next time */
    bool is_short;          /* the disk has refused blocks */
    bool has_tried;         /* giving back has brought the front none since the last commit */
    bool cannot_claim, cannot_give; /* the file system does not know how */
};

/* What a transaction is about to take; bytes of whole pages. */
struct room_need {
    uint64_t in_use;  /* what LMDB has in use, or cannot use because of readers; with `written` */
    uint64_t written; /* in this transaction */
    uint64_t more;    /* is to be written in it */
    uint64_t oldest;  /* txnid of the oldest reader: older lists can be used */
};

/* `ahead_bytes` follow from max_bytes, spool.max_size. */
void room_init(struct room *, MDB_env *, uint64_t max_bytes, uint64_t map_bytes);
void room_deinit(struct room *);
/* After each commit: LMDB's free list has another front. */
void room_moved(struct room *);
/* True if all of that has blocks, and deletions behind it; claims some if they are missing. */
bool room_has(struct room *, const struct room_need *);
/* True if giving back is under way, or would be worth it with so many free bytes; less so if there
 * is other work, which may need them again. */
bool room_gives(const struct room *, uint64_t free_bytes, bool is_busy);
/* One step: returns blocks of free pages, at least one run of them, until budget_ns are over or
 * is_awaited says that others wait; on a full disk others need what it frees. `oldest` as in
 * room_need. Returns an LMDB error. Nothing must be written meanwhile. */
int room_give_back(struct room *, uint64_t oldest, uint64_t budget_ns,
                   bool (*is_awaited)(void *arg), void *arg);
