#pragma once

/* What the loop thread asks of the spooler's thread.
 *
 * A job is owned by the loop thread until spooler_post and again when its `done` runs (on the loop
 * thread, exactly once). The spans of an append stay referenced in between; the thread only reads
 * their bytes. */

#include <stdbool.h>
#include <stdint.h>

#include "amqp/content.h"
#include "amqpbuf/spool_format.h"
#include "amqpbuf/status.h"
#include "net/mailbox.h"

enum job_type {
    JOB_QUEUE_PUT,
    JOB_QUEUE_DROP,
    JOB_APPEND,
    JOB_DELETE,
    JOB_REJECT,
    JOB_RETRY,
    JOB_DISCARD,
    JOB_TRIM,
    JOB_READ
};

/* One message of an append; body and header are empty for RECORD_DECLARE. */
struct job_append {
    enum record_kind kind;
    uint64_t received_at_us;
    struct message message;
    struct job_append *next;
};

/* How records become frames. */
struct framing {
    uint16_t channel;
    uint32_t frame_max;
    bool mandatory; /* publishes become it, so that RabbitMQ tells what it cannot route */
};

/* Where a record lies in a slab, as frames ready to be sent. */
struct job_record {
    uint64_t seq;
    enum record_kind kind;
    uint64_t received_at_us;
    uint8_t *frames;
    size_t frames_len;               /* 0: it does not fit frame_max */
    uint32_t method_len, header_len; /* bytes of the payloads, the method's first */
    uint64_t body_size;
    uint64_t destination; /* of a publish */
    bool mandatory;       /* as its publisher wanted it */
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
    uint64_t batch; /* result: number of the one in which it was done */
    uint64_t heard; /* the last batch whose results the loop thread knew when it posted this */
    union {
        struct {
            char *user, *vhost, *password; /* freed by job_free */
        } put;
        struct {
            struct job_append first; /* if there is one; a list of more is all or nothing */
            struct job_append *last;
            uint64_t count;
            uint64_t queue; /* handle of the proxy's queue */
            uint64_t pass;  /* doubts.pass, if its destination is set aside; 0: it is not */
            uint64_t doubt; /* handle of the doubt that it is the copy of; 0: of none */
            void (*copied)(uint64_t doubt, bool stored, uint64_t seq); /* tells it */
            uint64_t client; /* handle of whose messages they are, also if its channel is gone */
            void (*told)(const struct job *); /* hears of it when the counters have */
            uint64_t declared; /* declared_hash of a declaration; 0: none is identical */
            bool commit;       /* it is a transaction: the client waits for tx.commit-ok */
            uint64_t last_seq; /* result */
            struct rejection rejection;
            char *rejection_text; /* owned; NULL unless the message is rejected */
        } append;
        struct {
            uint64_t *seqs; /* freed by job_free */
            uint32_t count;
            uint32_t stay; /* result: so many, which stand first now, could not be taken out: they
                              are damaged */
        } delete;
        struct {
            uint64_t seq;
            uint16_t code;
            char *text; /* freed by job_free */
            bool stays; /* result: it is damaged, and where it was */
        } reject;
        struct {
            /* Rejected messages with after < number <= last; UINT64_MAX: all that there are now,
             * and the result says which was the last of them. */
            uint64_t after, last;
            bool is_one;  /* it was named: JOB_DISCARD takes it if it waits and is damaged, too */
            uint32_t max; /* most of them in this step, which is short */
            uint64_t reached; /* result: the number of the last one looked at */
            uint32_t count;   /* result, also if one of them could not be moved */
            uint32_t damaged; /* result: so many of them were not rejected, but waited, damaged */
        } rejected;
        struct {
            char *user, *vhost; /* of the queue, for its lines in the file; freed by job_free */
            bool exports;       /* what leaves the rejected list goes to the file */
            uint64_t excess;    /* so many of the oldest leave it, in steps, */
            uint64_t before_us; /* and those behind them that were rejected before that */
            uint64_t after; /* looks at those behind this number; result: where to go on, 0: at the
                               first */
            uint32_t count; /* result: of this step */
            bool at_end;    /* result: no more are to leave it */
        } trim;
        struct {
            uint64_t after, until; /* records with after < number <= until */
            uint64_t only;         /* publishes to this destination; 0: any record */
            uint64_t *except;      /* but publishes to these; freed by job_free */
            uint32_t except_count;
            uint32_t records_max;
            size_t bytes_max; /* at least one record is read whatever its size */
            struct framing framing;
            struct slab *slab; /* result; one reference; NULL if there were no records */
            struct job_record *records;
            uint32_t count;
            uint64_t reached; /* number of the last record that was looked at, or `after` */
            bool at_end;      /* nothing that is wanted waits behind it */
        } read;
    };
};

struct job *job_new(enum job_type, uint32_t queue, void (*done)(struct job *), uint64_t owner);
void job_free(struct job *);
/* Adds a message to an append job; takes it over. */
void job_add_message(struct job *, enum record_kind, struct message *);
/* Bytes of memory that it takes, the messages that it appends included. */
uint64_t job_memory(const struct job *);
/* Its messages' part in the slabs that hold them. */
size_t job_held_bytes(const struct job *);
/* Now, in microseconds since 1970 UTC. */
uint64_t job_clock_us(void);
