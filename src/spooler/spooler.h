#pragma once

/* The spool's own thread. Jobs go to it in batches, one wake-up each; it runs all that waits in
 * one transaction (group commit) and sends the jobs back, in order, once they are on disk.
 */

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "amqpbuf/status.h"
#include "config/config.h"
#include "spooler/gauges.h"
#include "spooler/job.h"

struct spooler;

enum { SPOOLER_STALLED_MS = 10000 }; /* busy with one thing for so long: the disk hangs */

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
/* Runs what was posted, stops the thread, closes the store, then calls on_closed from the loop;
 * which goes on meanwhile. */
void spooler_close(struct spooler *, void (*on_closed)(void *arg), void *arg);

/* Queues a job; all that were queued are handed over together. */
void spooler_post(struct spooler *, struct job *);
/* Gives the thread what was queued; before the loop polls. */
void spooler_hand_over(struct spooler *);
/* True if something is queued that has not been handed over. */
bool spooler_gathers(const struct spooler *);
/* True while so much memory waits for the disk that publishers should be held. */
bool spooler_is_full(const struct spooler *);
/* False while a message of ordinary size would not find room in the spool, or writing fails: as of
 * the last batch, and looked at again some times a second. */
bool spooler_has_room(const struct spooler *);
/* Why nothing is stored, if somebody has taken the spool's file away; else NULL. */
const char *spooler_misplaced(const struct spooler *);
/* True while less than a quarter of spool.max_size is free, as of the last batch. */
bool spooler_is_nearly_full(const struct spooler *);
/* Jobs posted whose `done` has not run. */
uint64_t spooler_pending(const struct spooler *);
/* For how long the thread has been at what it does, a commit mostly; 0 while it waits for work. */
uint64_t spooler_busy_ms(const struct spooler *);
/* Bytes of messages among them. */
uint64_t spooler_pending_bytes(const struct spooler *);
/* The spool as of the last batch; the caller frees view->queues. */
void spooler_view(struct spooler *, struct spool_view *view);
/* Why the spool took no message at the last try, if that was a moment ago; else NULL. Valid until
 * control returns to the loop. */
const char *spooler_failure(const struct spooler *, uint64_t now_ms);
