#pragma once

/* The upstreams that the clients of a pool share: which of them can be used, dialling, and trying
 * again with back-off after a failure. What becomes of them is told to the pool (upstream_events).
 */

#include <stdbool.h>

#include "pool/pool_struct.h"

/* One that takes publishes, or NULL. */
struct upstream *connections_usable(struct pool *);
/* Those that all share are counted, also if RabbitMQ blocks publishing, and not that of a drain
 * alone: it serves nobody else, and ends with the drain. */
bool connections_are_open(const struct pool *);
unsigned connections_open_count(const struct pool *);
/* True if there is none that all share, not even one that is being dialled. */
bool connections_are_missing(const struct pool *);
/* True if somebody needs one. */
bool connections_are_wanted(const struct pool *);
/* True if somebody needs one, and there is none, none is being dialled, and no next try is timed.
 * It is so for no longer than a function runs. */
bool connections_are_missed(const struct pool *);

/* Dials one, whatever is there, and no longer waits for the next try. */
void connections_dial(struct pool *);
/* Dials unless it is connected, dialing, or waiting for its next try. */
void connections_want(struct pool *);
/* Dials another one, unless that has failed a moment ago. What is known of the distance from the
 * one `beside` it, if that is not NULL, is taken over. */
void connections_want_more(struct pool *, const struct upstream *beside);
/* Another one could not be had. RabbitMQ may allow no more (a limit): the wait doubles, as after an
 * outage. */
void connections_put_off_more(struct pool *);
/* Each of upstream.url has its turn before anybody hears that there is none, and before the next
 * wait. False: all had. */
bool connections_try_next_broker(struct pool *);
/* Tries again later, unless that is to happen already. */
void connections_retry(struct pool *);
/* The settings have changed: waits no longer for that than they say now. */
void connections_reconfigured(struct pool *);
/* Tries again later if one is missed. Whatever changes a pool ends here (pool_state_update). */
void connections_ensure(struct pool *);
/* An open one that was dialled by somebody else. */
void connections_add(struct pool *, struct upstream *);
/* For a drain: one with a free channel number, or NULL; then another one is asked for. One of its
 * own if the queue is to be drained alone. */
struct upstream *connections_for_drain(struct pool *);

/* Closes those that nobody has used for pool.idle_timeout, and what was dialled for a drain that is
 * not needed any more. */
void connections_close_idle(struct pool *, uint64_t now_ms);
void connections_close(struct pool *);
