#pragma once

/* The end (SIGTERM): no new connections; clients that are there go on for a moment, so that a short
 * job ends by itself (FINISHING). Then nothing more is read; what was accepted is confirmed or
 * spooled and answered (SETTLING), clients are told (LEAVING), every handle is closed and the loop
 * ends empty (CLOSING). Each stage leaves a share of listen.shutdown_timeout to those behind it.
 * Who asks twice gets the last of these at once. */

struct proxy;

void shutdown_wanted(struct proxy *);
/* A start that has failed: nobody is there yet. */
void shutdown_at_once(struct proxy *);
/* Each turn of the loop: a restart is as short as it can be. */
void shutdown_advance(struct proxy *);
/* Each tick; ends the process if nobody but a name that is looked up keeps it. */
void shutdown_tick(struct proxy *);
