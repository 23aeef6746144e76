#pragma once

/* Walks a list of records (waiting or rejected) in key order inside a read transaction. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lmdb.h>

#include "spool/record.h"

/* Both return false to stop. Pointers are into the map, valid during the call. */
typedef bool (*walk_visit)(void *arg, uint64_t seq, const struct record *, const struct iovec *body,
                           size_t body_count);
typedef bool (*walk_damaged)(void *arg, uint64_t seq, const char *what);

struct walk_list {
    MDB_dbi records; /* waiting or rejected */
    MDB_dbi parts;   /* used only with `bodies` */
    uint32_t queue;
    bool bodies; /* false: parts are not read, and body_count is 0 */
};

struct walk_edge {
    uint64_t seq, at_us; /* received, microseconds since 1970 UTC; 0 if the record is damaged */
};

/* The record at one end of a list; zeros if it is empty or unreadable. */
struct walk_edge walk_edge(MDB_txn *, MDB_dbi, uint32_t queue, bool last);
/* Visits records with seq > after. Damaged ones are passed over. Returns an LMDB error or 0. */
int walk_list(MDB_txn *, struct walk_list, uint64_t after, walk_visit, walk_damaged, void *arg);
