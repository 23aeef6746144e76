#pragma once

/* The destinations of a queue that are set aside: RabbitMQ has publishes for them that it does not
 * confirm in time. Those publishes are in the spool too, as copies in doubt; what follows to the
 * same destination waits behind them there, in order, while all other publishes pass through live.
 *
 * A late confirm deletes the copy. If the channel is lost first, or RabbitMQ refuses the publish,
 * the copy stands for it. A destination comes back when none of its publishes is in doubt; what
 * waits for it is drained then. */

#include <stdbool.h>
#include <stdint.h>

#include "proxy/spool_out.h"
#include "proxy/window.h"

struct channel;
struct doubt;
struct message;
struct pool;
struct queue;

struct doubts {
    struct window owed; /* publishes in doubt, by destination */
    uint64_t records; /* in the spool that the last pass of a drain has left there, or later ones */
    uint64_t appending; /* on their way there */
    uint64_t pass;      /* counts how often a destination came back: then all is counted anew */
};

bool doubts_hold(const struct queue *, uint64_t destination);
/* One more publish of this destination is owed for; it must not be sent again meanwhile. */
void doubts_add(struct queue *, uint64_t destination);
/* One of them is decided. */
void doubts_remove(struct queue *, uint64_t destination);

/* Puts a publish that RabbitMQ has not confirmed in time into the spool; takes the message. */
struct doubt *doubt_new(struct pool *, struct spool_owner, struct message *, uint64_t client_tag);
/* RabbitMQ has it after all. Frees the doubt, now or when the copy is deleted. */
void doubt_confirmed(struct doubt *);
/* RabbitMQ has lost or refused it. Frees the doubt. */
void doubt_lost(struct doubt *);
/* The copy was stored under this number, or could not be stored. */
void doubt_appended(struct doubt *, bool stored, uint64_t seq);
