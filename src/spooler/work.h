#pragma once

/* What the spooler's thread does with its store: jobs that write, in one transaction, and jobs that
 * read. A store that reports STATUS_FATAL is closed, and opened again before the next job. */

#include <stdbool.h>
#include <stddef.h>

#include "net/mailbox.h"
#include "spool/credential.h"
#include "spool/place.h"
#include "spool/store.h"
#include "spooler/gauges.h"
#include "spooler/job.h"

enum { WORK_CHANNELS_FAILED = 256 };

/* A channel of which a message could not be stored. */
struct work_failed {
    uint64_t channel; /* handle */
    uint64_t batch;   /* in which that was */
};

struct work {
    struct store *store; /* NULL: has to be opened again */
    struct store_options options;
    char *path;         /* of the options */
    struct place place; /* of the store's files; nothing before it was opened first */
    struct credential_key key;
    _Atomic bool shorten_expiration;
    uint64_t batch; /* number of the last one, from 1 */
    /* Channels of which a message could not be stored, the earliest first. Later ones are not
     * stored either, also if they are smaller and find room: their client is closed, and what it
     * had sent must have no hole in it (P2). None is forgotten while something may come that was
     * posted before its client could be told; the last WORK_CHANNELS_FAILED stay even then, for
     * what is stored late of clients that are gone. */
    struct work_failed *failed; /* freed by work_clear */
    uint32_t failed_count, failed_capacity;
    _Atomic bool
        refuses_one_by_one; /* spool.overflow = reject: each that is confirmed has its own answer */
    bool failing;     /* a commit or sync failed, and none that was synced has succeeded since */
    uint64_t step_ns; /* housekeeping is done in steps of about so long */
    struct gauges gauges;
};

/* Frees what it has gathered; not the store. */
void work_clear(struct work *);

bool job_writes(const struct job *);

/* True if the store is open, or could be opened; again only if it is still there: what waits is not
 * to be mistaken for nothing, nor for what another data.mdb has. */
bool work_open(struct work *, struct failure *);
/* But not while data.mdb is out of its place: it could not be opened again, and may be removed, and
 * then be gone with the last who has it open. */
void work_close_if_fatal(struct work *, enum status);
/* True while a step that began then (uv_hrtime) may go on: publishes wait for its end. */
bool work_has_time(const struct work *, uint64_t begun_ns);
/* The job's status, and in words what went wrong. */
void work_result(struct job *, enum status, const struct failure *);

/* Does all jobs of the batch that write, and gives each its result. */
void work_write(struct work *, struct mail_chain *batch);
/* Does a JOB_READ: the records as frames, ready to be sent. */
void work_read(struct work *, struct job *);
