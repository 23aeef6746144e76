#pragma once

/* A spool of format 1, for the migration alone: three databases for each queue, entries without a
 * checksum (docs/spool-format.md, "Version 1"). Its records and parts are those of format 2. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lmdb.h>

#include "spool/directory.h"

/* In the order in which they are moved: a record's parts are there before it is. */
enum format1_kind { FORMAT1_PARTS, FORMAT1_REJECTED, FORMAT1_WAITING, FORMAT1_KINDS };

/* The key of an item in its list; the part is 0 but among parts. */
struct format1_place {
    uint64_t seq;
    uint32_t part;
};

struct format1_list {
    uint32_t queue;
    enum format1_kind kind;
    MDB_dbi dbi;               /* 0: there is no such list */
    struct format1_place from; /* all before it is done with */
    bool is_at_end;            /* nothing is left */
    bool has_damage;           /* LMDB must not delete from its pages, nor drop it */
};

struct format1_item {
    struct format1_place place;
    size_t at, len; /* in the batch's bytes */
};

/* Items copied out of LMDB's map; the caller frees items and bytes. */
struct format1_batch {
    struct format1_item *items;
    size_t count, capacity;
    uint8_t *bytes;
    size_t len, bytes_capacity;
    size_t max_bytes; /* it is full at so many; one more item may go beyond */
};

/* Takes an entry of `queues` apart; false if that cannot be done. */
bool format1_entry(uint32_t id, const MDB_val *value, struct directory_entry *);

enum { FORMAT1_KEY_BYTES = 12 };
/* The key of that place, in `bytes`. */
MDB_val format1_key(uint8_t bytes[FORMAT1_KEY_BYTES], const struct format1_list *,
                    struct format1_place);
/* Opens the list's database. Returns an LMDB error. */
int format1_open(MDB_txn *, struct format1_list *);
bool format1_is_full(const struct format1_batch *);
/* Takes items from list->from on into the batch until one is at its end, in read transactions of
 * its own. What cannot be read is passed over. Returns an LMDB error. */
int format1_gather(MDB_env *, struct format1_list *, struct format1_batch *);
