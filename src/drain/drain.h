#pragma once

/* Replays one backlog into an upstream, in key order, on a channel of its own (the lowest free
 * number: 1 right after the upstream's handshake), and deletes each record once RabbitMQ has taken
 * it. */

#include <stdint.h>

struct backlog;
struct drain;
struct job;
struct upstream;

/* Begins; at most one for each backlog. NULL if the upstream, which is open, has no free channel.
 */
struct drain *drain_start(struct backlog *, struct upstream *);
/* New records wait behind the last that was read. */
void drain_more(struct drain *);
/* These records wait there now (JOB_APPEND). */
void drain_appended(struct drain *, const struct job *);
/* Its upstream takes more again, or nothing is held back any longer. */
void drain_go_on(struct drain *);
/* Stops at once; what was not confirmed stays in the queue. */
void drain_stop(struct drain *);
void drain_tick(struct drain *, uint64_t now_ms);
