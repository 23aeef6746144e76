#pragma once

/* The spool's own thread. Jobs go to it in batches, one wake-up each; it runs all that waits in
 * one transaction (group commit) and sends the jobs back, in order, once they are on disk.
 *
 * A job is owned by the loop thread until spooler_post and again when its `done` runs (on the loop
 * thread, exactly once). The spans of an append stay referenced in between; the thread only reads
 * their bytes. */

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "amqp/content.h"
#include "amqpbuf/status.h"
#include "config/config.h"
#include "net/mailbox.h"
#include "spool/store.h"

enum job_type { JOB_QUEUE_PUT, JOB_APPEND, JOB_DELETE, JOB_REJECT, JOB_READ };

/* One message of an append; body and header are empty for RECORD_DECLARE. */
struct job_append {
    enum record_kind kind;
    uint64_t received_at_us;
    struct message message;
    struct job_append *next;
};

/* Where a record that was read lies in the batch's slab, as frames ready to be sent. */
struct job_record {
    uint64_t seq;
    enum record_kind kind;
    uint64_t received_at_us;
    uint8_t *frames;
    size_t frames_len;               /* 0: its header does not fit frame_max */
    uint32_t method_len, header_len; /* bytes of the payloads, the method's first */
    uint64_t body_size;
};

struct job {
    struct mail mail;
    enum job_type type;
    enum status status; /* result */
    char error[256];    /* text, if status is not STATUS_OK */
    uint32_t queue;     /* id in the store; the result of JOB_QUEUE_PUT */
    void (*done)(struct job *);
    uint64_t owner; /* handle of whom the result concerns, 0 for nobody */
    uint64_t context;
    union {
        struct {
            char *user, *vhost, *password; /* freed by job_free */
        } put;
        struct {
            struct job_append first; /* a list of more is appended all or nothing */
            uint64_t count;
            uint64_t queue;    /* handle of the proxy's queue */
            bool commit;       /* it is a transaction: the client waits for tx.commit-ok */
            uint64_t last_seq; /* result */
            struct rejection rejection;
            char *rejection_text; /* owned; NULL unless the message is rejected */
        } append;
        struct {
            uint64_t *seqs; /* freed by job_free */
            uint32_t count;
        } delete;
        struct {
            uint64_t seq;
            uint16_t code;
            char *text; /* freed by job_free */
        } reject;
        struct {
            uint64_t after;
            uint32_t records_max;
            size_t bytes_max;   /* at least one record is read whatever its size */
            uint16_t channel;   /* frames are made for this channel */
            uint32_t frame_max; /* and this limit */
            struct slab *slab;  /* result; one reference; NULL if there were no records */
            struct job_record *records;
            uint32_t count;
            bool at_end; /* nothing waits behind the last of these */
        } read;
    };
};

struct spooler;

/* What the spool holds at start; strings are valid during the visit. */
struct spooler_queue {
    uint32_t id;
    const char *user, *vhost;
    const char *password; /* NULL if it cannot be unsealed */
    uint64_t messages, bytes, rejected;
};

/* True if a spool is there already. */
bool spooler_exists(const struct config *);
/* Opens the spool (on the calling thread, so that errors end the start), visits its queues, starts
 * the thread. NULL with the reason in `failure`. */
struct spooler *spooler_open(uv_loop_t *, const struct config *,
                             void (*visit)(void *arg, const struct spooler_queue *), void *arg,
                             struct failure *failure);
/* Takes over what may change without a restart. */
void spooler_configure(struct spooler *, const struct config *);
/* Runs what was posted, stops the thread, closes the store, then calls on_closed from the loop. */
void spooler_close(struct spooler *, void (*on_closed)(void *arg), void *arg);

struct job *job_new(enum job_type, uint32_t queue, void (*done)(struct job *), uint64_t owner);
void job_free(struct job *);
/* Adds a message to an append job; takes it over. */
void job_add_message(struct job *, enum record_kind, struct message *);

/* Queues a job; all jobs of one iteration of the loop are handed over together. */
void spooler_post(struct spooler *, struct job *);
/* True while so much waits for the disk that publishers should be held. */
bool spooler_is_full(const struct spooler *);
/* Jobs posted whose `done` has not run. */
uint64_t spooler_pending(const struct spooler *);
void spooler_usage(struct spooler *, uint64_t *used_bytes, uint64_t *max_bytes);
