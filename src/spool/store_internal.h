#pragma once

/* What the files of the store share: store_transactions.c (environment, transactions),
 * store_queues.c (queues), store_messages.c and store_rejected.c (messages), examine.c (damage),
 * space.c (room), store_place.c (its files). Theirs alone.
 */

#include <stdbool.h>
#include <stdint.h>

#include <lmdb.h>

#include "spool/checkpoint.h"
#include "spool/directory.h"
#include "spool/holder.h"
#include "spool/home.h"
#include "spool/place.h"
#include "spool/room.h"
#include "spool/walk.h"

struct queue_ends {
    struct walk_edge first, last; /* of what waits */
};

/* What damaged pages, found when they were read, leave of a queue. What can be read is read. */
enum queue_damage {
    QUEUE_SOUND,
    QUEUE_HOLED,    /* nothing is deleted: LMDB would put a damaged page and another together */
    QUEUE_TAILLESS, /* nor is anything appended: its last page is one of them */
};

struct queue_slot {
    enum queue_damage damage;
    struct directory_entry entry;
    struct directory_entry saved; /* counters at begin (strings are not copied) */
    uint8_t *saved_sealed;
    size_t saved_sealed_len;
    struct queue_ends ends, saved_ends; /* as committed, or about to be */
    bool dirty;
    bool fresh;      /* made in this transaction */
    bool is_changed; /* since store_changes was asked */
    bool is_mended;  /* at the start; its entry is not written yet */
    /* Numbers for which store_look_around has found nothing: 0 and 0 for none. */
    uint64_t sound_from, sound_to;
};

/* Ids of queues, each once. */
struct slot_list {
    uint32_t *ids;
    uint32_t count, capacity;
};

struct store {
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi meta, queues;
    MDB_dbi messages, rejected, parts; /* of all queues */
    struct home_lock lock;
    char *path;
    struct place place;
    enum place_change misplaced;
    struct checkpoint checkpoint;
    bool was_restored;
    struct queue_slot *slots; /* by id */
    uint32_t slot_count, slot_capacity;
    struct slot_list touched; /* in this transaction */
    struct slot_list changed; /* since store_changes was asked */
    struct slot_list lost;    /* queues of which nobody knows whose they are */
    uint32_t highest_id;      /* that a queue has or had */
    uint32_t last_dropped;    /* the highest of one that was dropped */

    struct room room; /* on the disk */
    uint64_t max_bytes;
    uint64_t reserve_bytes; /* appends stop that far below max_bytes */
    uint64_t used_bytes;    /* as last counted, plus what was written since */
    uint64_t held_bytes;    /* free, but not for the next transaction, and more than a quarter of
                               the reserve can stand in for; as last counted */
    uint64_t oldest_txnid;  /* as last counted: see struct env_pages */
    bool is_reader_behind;  /* as last counted */
    struct store_holder holder;
    bool is_free_list_damaged; /* then nothing can be written */
    uint64_t txn_bytes;        /* written in this transaction, or the last one */
    bool is_recounted;         /* in this transaction */
    uint64_t counted_ms;
    uint64_t page_bytes;
};

/* ---- store_queues.c ---- */

/* Reads the directory; one whose login is lost has no slot. */
enum status store_load_queues(struct store *, MDB_txn *, struct failure *);
/* The queue of that id, or NULL. Valid until a queue is made or dropped. */
struct queue_slot *store_slot(struct store *, uint32_t id);
/* Keeps the queue's counters as they are, in case the transaction fails; call before changing them.
 */
void store_touch(struct store *, struct queue_slot *);
/* Writes what the transaction has changed of the queues. Returns an LMDB error. */
int store_put_touched(struct store *);
/* After the commit, or after an abort. */
void store_keep_touched(struct store *);
void store_restore_touched(struct store *);
void store_free_queues(struct store *);

/* ---- store_messages.c ---- */

/* Deletes the parts of a body; those that are missing are no error. Returns an LMDB error. */
int store_delete_parts(struct store *, uint32_t queue, uint64_t seq, uint32_t parts);

/* ---- examine.c ---- */

/* Says it once; a damage never becomes less. */
void store_note_damage(struct queue_slot *, enum queue_damage);
/* Finds the first and the last record of what waits. */
void store_find_ends(const struct store *, struct queue_slot *, MDB_txn *);
/* Of what waits only the end is looked at, where messages are appended; the rest when it is read.
 */
void store_look_at_pages(struct store *, struct queue_slot *);
/* Before what is read from there may be deleted: pages that LMDB may put together with that of the
 * number. A damaged one is noted. */
void store_look_around(struct queue_slot *, uint64_t seq, MDB_txn *, const struct page_map *);
/* Damaged pages of one queue are no reason not to serve the others: they are noted. Counters are
 * held against what LMDB has counted, and mended. */
void store_look_at_queues(struct store *);
/* What all queues hang on is read before anything is written. */
enum status store_check_trees(struct store *, struct failure *);

/* ---- space.c ---- */

/* True if so many more bytes fit into the map, short of the reserve. */
bool space_fits(const struct store *, uint64_t cost);
/* Counts used and held bytes, also inside a transaction. */
enum status space_recount(struct store *, struct failure *);
/* Before a transaction: counts when it matters, and makes room. */
enum status space_count(struct store *, struct failure *);
/* How far below max_size appends stop, so that deletes fit. */
uint64_t space_reserve(uint64_t max_bytes);
/* An empty transaction: what the one before freed can be used by the next. */
enum status space_pass(struct store *, struct failure *);
/* The one way in which a store commits, once it is open: which pages come next is looked for anew
 * then. Returns an LMDB error. */
int space_commit(struct store *, MDB_txn *);
/* True if so many more bytes have blocks on the disk; claims some if need be. */
bool space_has_blocks(struct store *, uint64_t cost);
bool store_keeps_checkpoints(const struct store *);
