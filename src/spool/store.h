#pragma once

/* The durable queues: one LMDB environment, used by one thread.
 *
 * A process opens a directory at most once, and locks it (flock) so that a second amqpbuf
 * is told STATUS_IN_USE. All calls are synchronous and may block on the disk.
 *
 * Writing: store_begin, any number of append/delete/reject/queue_put, store_commit. What is
 * committed with SYNC_COMMIT has been through fdatasync. After a failed call inside a transaction
 * other than STATUS_FULL, STATUS_NOT_FOUND or STATUS_INVALID the only legal next call is
 * store_abort. STATUS_FULL is decided before LMDB is touched (a reserve is kept below max_size
 * because a delete needs free pages too), so that the transaction goes on with what fits.
 * STATUS_FATAL: close the store and open it again. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "amqpbuf/spool_format.h"
#include "amqpbuf/spool_reader.h"
#include "amqpbuf/status.h"
#include "spool/holder.h"

struct store;

enum store_sync {
    STORE_SYNC_COMMIT,
    STORE_SYNC_INTERVAL, /* the owner calls store_sync; a power cut takes what came since */
    STORE_SYNC_NEVER,    /* a power cut may take the whole spool */
};

struct store_options {
    const char *path;        /* directory; made with mode 0700 if missing */
    uint64_t max_size_bytes; /* LMDB map size */
    enum store_sync sync;
};

/* One message to append, in the caller's memory until the call returns. */
struct store_message {
    enum record_kind kind;
    uint64_t received_at_us;  /* microseconds since 1970 UTC */
    struct iovec method;      /* frame payload of the method */
    struct iovec header;      /* frame payload of the content header; empty for RECORD_DECLARE */
    const struct iovec *body; /* body bytes in order */
    size_t body_count;
};

/* One message read back; pointers are into memory owned by the call and valid during the visit. */
struct store_record {
    uint64_t seq;
    enum record_kind kind;
    uint64_t received_at_us;
    struct iovec method, header;
    const struct iovec *body; /* the parts of the body in order */
    size_t body_count;
    uint64_t body_size; /* bytes, the sum of the parts */
};

/* What is known of a queue; strings are valid during the visit. */
struct store_queue {
    uint32_t id;
    const char *user, *vhost; /* terminated; lengths below, since both may hold any byte but NUL */
    const uint8_t *sealed;    /* password as credential_seal made it */
    size_t sealed_len;
    uint64_t next_seq;
    uint64_t messages, bytes; /* waiting; bytes are of method + header + body */
    uint64_t rejected;
    uint64_t first_seq, last_seq;        /* of what waits; 0 when nothing does */
    uint64_t oldest_at_us, newest_at_us; /* received; 0 when nothing waits */
};

enum status store_open(struct store **store, const struct store_options *options,
                       struct failure *failure);
void store_close(struct store *);
/* True if the machine went down since, and what was not synced then is not there any more. */
bool store_was_restored(const struct store *);

/* Looks whether the files in the directory are still those that are open, and says in the log what
 * has changed. While data.mdb is not, nothing is appended (STATUS_FULL). STATUS_FATAL: lock.mdb is
 * not; opened again, the store sees other readers, and they see it. A checkpoint is made again at
 * once; if that fails: STATUS_FATAL. Not inside a write transaction. */
enum status store_look_at_place(struct store *);
/* Why nothing is appended, in words that stay valid; NULL if data.mdb is in its place. */
const char *store_misplaced(const struct store *);

/* Visits every queue, by id. `visit` returns false to stop. Not inside a write transaction. */
void store_queues(const struct store *, bool (*visit)(void *arg, const struct store_queue *),
                  void *arg);
/* Visits those that were changed since the last call; after store_open, every one. Those that were
 * dropped are not among them. Not inside a write transaction. */
void store_changes(struct store *, void (*visit)(void *arg, const struct store_queue *), void *arg);

enum status store_begin(struct store *, struct failure *);
enum status store_commit(struct store *, struct failure *);
void store_abort(struct store *);
/* Makes what was committed the least that a power cut leaves, for STORE_SYNC_INTERVAL. Not inside a
 * write transaction. */
enum status store_sync(struct store *, struct failure *);

/* Creates the queue of (user, vhost) or, where it exists, replaces its sealed password. */
enum status store_queue_put(struct store *, const char *user, const char *vhost,
                            const uint8_t *sealed, size_t sealed_len, uint32_t *id,
                            struct failure *);
/* Forgets a queue in which nothing is left, waiting or rejected, and its login; STATUS_INVALID if
 * something is. A transaction of its own: not inside a write transaction. Its id is not used again.
 */
enum status store_queue_drop(struct store *, uint32_t id, struct failure *);
/* Appends at the tail; *seq is the number given (from 1, never used twice). */
enum status store_append(struct store *, uint32_t queue, const struct store_message *,
                         uint64_t *seq, struct failure *);
/* Bytes of the spool that appending such a message takes at most; of its body only lengths count.
 */
uint64_t store_append_cost(const struct store *, uint32_t queue, const struct store_message *);
/* STATUS_FULL if appends that cost so much in all would not find room now. Inside a write
 * transaction, which stays as it is. */
enum status store_room_for(struct store *, uint64_t cost, struct failure *);
/* STATUS_NOT_FOUND if there is no such message (the transaction stays usable). */
enum status store_delete(struct store *, uint32_t queue, uint64_t seq, struct failure *);
/* Moves a waiting message to the queue's rejected list under the same sequence number; without the
 * rejection's text if the disk is full. */
enum status store_reject(struct store *, uint32_t queue, uint64_t seq, const struct rejection *,
                         struct failure *);
/* Puts a message that never waited straight into the rejected list. */
enum status store_append_rejected(struct store *, uint32_t queue, const struct store_message *,
                                  const struct rejection *, uint64_t *seq, struct failure *);

/* The highest number that was given so far; 0 if the queue is not there. */
uint64_t store_last_seq(struct store *, uint32_t queue);
/* Copies the first rejected message with after < number, as amqpbuf-inspect shows it. What it
 * points to is in *bytes, which the caller frees, whatever the status. STATUS_NOT_FOUND if there is
 * none; a damaged one is STATUS_INVALID, and record->seq says which it was. */
enum status store_copy_rejected(struct store *, uint32_t queue, uint64_t after,
                                struct reader_record *record, uint8_t **bytes, struct failure *);
/* Drops a message that waits and is damaged. STATUS_NOT_FOUND if there is none of this number,
 * STATUS_INVALID if it is whole, or on damaged pages. */
enum status store_discard_damaged(struct store *, uint32_t queue, uint64_t seq, struct failure *);
/* Drops the first rejected message with after < number <= last; *seq says which it was.
 * STATUS_NOT_FOUND if there is none. */
enum status store_discard(struct store *, uint32_t queue, uint64_t after, uint64_t last,
                          uint64_t *seq, struct failure *);
/* The same, but puts it back behind all that waits, under a new number. A damaged one is
 * STATUS_INVALID, and *seq says which it was. */
enum status store_retry(struct store *, uint32_t queue, uint64_t after, uint64_t last,
                        uint64_t *seq, struct failure *);

enum store_choice { STORE_TAKE, STORE_PASS, STORE_STOP };

/* Who reads waiting messages. */
struct store_visitor {
    /* Whether a message is to be visited; its body is not there yet (body_count is 0), but
     * body_size is. Of others no long body is read from the disk. NULL: all are. */
    enum store_choice (*choose)(void *arg, const struct store_record *);
    bool (*visit)(void *arg, const struct store_record *); /* false: to stop */
    void (*damaged)(void *arg, uint64_t seq);
    void *arg;
};

/* Visits waiting messages with seq > after in order, until it is stopped or the queue ends. Not
 * inside a write transaction. A damaged record is reported and passed over; it stays where it is.
 * Parts of a body that are damaged are found when they are read. */
enum status store_read(struct store *, uint32_t queue, uint64_t after, const struct store_visitor *,
                       struct failure *failure);

/* To be called when nothing has been asked for a while: counts what is in use. Not inside a write
 * transaction. */
enum status store_rest(struct store *, struct failure *);
/* True while there is disk space to be given back after a large backlog, by steps; while there is
 * other work it has to be more. */
bool store_gives_back(const struct store *, bool is_busy);
/* One step, which takes about budget_ns, and less once is_awaited says that others wait. Not inside
 * a write transaction. */
enum status store_give_back(struct store *, uint64_t budget_ns, bool (*is_awaited)(void *arg),
                            void *arg, struct failure *);
/* Commits a transaction that changes nothing: whether writing works. */
enum status store_probe(struct store *, struct failure *);
/* True if a message of ordinary size would find room, in the map and on the disk. */
bool store_has_room(struct store *);
/* True while a reader keeps all pages from being used again and deletions have begun to go beyond
 * max_size: the fewer transactions they come in, the longer that can go on. */
bool store_is_beyond(const struct store *);
/* Who holds most, as of the last count. */
struct store_holder store_holder(const struct store *);
/* Bytes of the map in use, and its limit; between two rests an estimate on the safe side. */
void store_usage(struct store *, uint64_t *used_bytes, uint64_t *max_bytes);
