#pragma once

/* Read-only access to a spool, for amqpbuf-inspect: safe beside a running amqpbuf, on a copied
 * spool, and on a read-only file system. Works in short read transactions (at most
 * READER_BATCH_RECORDS records or READER_BATCH_BYTES bytes each), so that it never keeps the
 * proxy from using old pages again. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "amqpbuf/spool_format.h"
#include "amqpbuf/status.h"

enum { READER_BATCH_RECORDS = 256, READER_BATCH_BYTES = 4 * 1024 * 1024 };

struct reader;

struct reader_queue {
    uint32_t id;
    const char *user, *vhost;            /* valid until the visit returns */
    uint64_t messages, bytes;            /* waiting */
    uint64_t first_seq, last_seq;        /* 0 when empty */
    uint64_t oldest_at_us, newest_at_us; /* received; 0 when empty */
    uint64_t next_seq;
    uint64_t rejected;
    const char *damage; /* what of its entry cannot be read, and is empty or 0; NULL: nothing */
};

/* A message, copied out of the map: valid until the visit returns. */
struct reader_record {
    uint32_t queue;
    uint64_t seq;
    enum record_kind kind;
    uint64_t received_at_us;
    const uint8_t *method;
    size_t method_len;
    const uint8_t *header; /* content header payload: class, weight, body size, properties */
    size_t header_len;
    const uint8_t *body; /* contiguous; NULL if the caller did not ask for bodies */
    uint64_t body_size;
    bool is_rejected;
    struct rejection rejection; /* if is_rejected */
};

enum { READER_BODIES = 1, READER_REJECTED = 2 };

/* STATUS_NO_SPOOL if the directory holds none; STATUS_VERSION if it is of another format, which a
 * start of amqpbuf may change, or has begun to change. */
enum status reader_open(struct reader **reader, const char *path, struct failure *);
void reader_close(struct reader *);

enum status reader_queues(struct reader *, bool (*visit)(void *arg, const struct reader_queue *),
                          void *arg, struct failure *);
/* Visits the queue's records with seq > after in order; flags: READER_BODIES to have bodies,
 * READER_REJECTED to read the rejected list instead. `visit` returns false to stop. Records that
 * are damaged go to `damaged` with what is wrong, and are passed over. */
enum status reader_records(struct reader *, uint32_t queue, uint64_t after, unsigned flags,
                           bool (*visit)(void *arg, const struct reader_record *),
                           void (*damaged)(void *arg, uint32_t queue, uint64_t seq,
                                           const char *what),
                           void *arg, struct failure *);
void reader_usage(struct reader *, uint64_t *used_bytes, uint64_t *max_bytes);
