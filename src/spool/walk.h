#pragma once

/* Walks one queue's records (waiting or rejected) in key order inside a read transaction. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lmdb.h>

#include "spool/page.h"
#include "spool/record.h"

/* Both return false to stop. Pointers are into the map, valid during the call. */
typedef bool (*walk_visit)(void *arg, uint64_t seq, const struct record *, const struct iovec *body,
                           size_t body_count);
typedef bool (*walk_damaged)(void *arg, uint64_t seq, const char *what);

/* Of a record whose parts were not looked at. */
enum walk_choice { WALK_TAKE, WALK_PASS, WALK_STOP };
typedef enum walk_choice (*walk_choose)(void *arg, uint64_t seq, const struct record *);

struct walk_list {
    MDB_dbi records; /* messages or rejected: of all queues */
    MDB_dbi parts;   /* used only with `bodies` */
    uint32_t queue;
    bool rejected;       /* it is the list of those */
    bool bodies;         /* false: parts are not read, and body_count is 0 */
    walk_choose choose;  /* which are visited; NULL: all */
    bool tells_unsound;  /* a page whose records can be read, and that LMDB could not write to */
    struct page_map map; /* what LMDB says is believed if it is in there */
};

/* What is told as damaged when whole pages are: the first number that may be on them. */
extern const char walk_pages_damaged[];
/* The same of a page whose records can be read. */
extern const char walk_pages_unsound[];

struct walk_edge {
    uint64_t seq, at_us; /* received, microseconds since 1970 UTC; 0 if the record is damaged */
};

/* The record at one end of a list; zeros if it is empty or unreadable. Returns an LMDB error or 0.
 */
int walk_edge(MDB_txn *, const struct walk_list *, bool last, struct walk_edge *);
/* Finds where a list can be read again behind a damaged page: one number after the other first, for
 * a page has few; then in steps that grow, and back to where it began to be readable. probe(arg,
 * seq) returns 0 with the first number from `seq` on in *found, MDB_NOTFOUND if there is none,
 * EINVAL to give up, or another error. `bad` is the first to be tried. Returns the number, or 0 if
 * there is none. */
uint64_t walk_pass_damage(uint64_t bad, int (*probe)(void *arg, uint64_t seq, uint64_t *found),
                          void *arg);
/* Visits records with seq > after. Damaged ones are passed over, and damaged pages too if the
 * transaction only reads; it is renewed for that. Returns an LMDB error or 0. */
int walk_list(MDB_txn *, struct walk_list, uint64_t after, walk_visit, walk_damaged, void *arg);
