#pragma once

/* The blocks on the file system under data.mdb. LMDB's map size says nothing about the disk, and a
 * deletion writes pages before it frees any: so blocks for a few MiB more than is in use are
 * claimed ahead, and appends stop when no more can be had. What a large backlog leaves empty is
 * given back as holes (fallocate(2)): the file keeps its length, du(1) shows what it takes. */

#include <stdbool.h>
#include <stdint.h>

#include <lmdb.h>

#include "amqpbuf/status.h"

struct room {
    int fd;                         /* of data.mdb; LMDB's */
    uint64_t max_bytes;             /* of the map: LMDB never writes behind it */
    uint64_t ahead_bytes;           /* that deletions can count on */
    uint64_t claimed_bytes;         /* from the beginning of the file, less what was given back */
    uint64_t given_bytes;           /* empty pages without blocks, as of the last room_give_back */
    bool cannot_claim, cannot_give; /* the file system does not know how */
};

void room_init(struct room *, int fd, uint64_t max_bytes);
/* True if `used_bytes` of pages fit into claimed blocks, with some ahead; claims more if they do
 * not and that can be had. */
bool room_has(struct room *, uint64_t used_bytes);
/* Gives the blocks of free pages back if that is worth it. `txn` is a read transaction of the last
 * commit; nothing must be written meanwhile. */
enum status room_give_back(struct room *, MDB_txn *txn, uint64_t free_bytes, struct failure *);
