#pragma once

/* The destinations of a queue that are set aside: RabbitMQ has publishes for them that it does not
 * confirm in time. Those publishes are in the spool too, as copies in doubt (doubt.h); what follows
 * to the same destination waits behind them there, in order, while all other publishes pass through
 * live.
 *
 * A destination comes back when none of its publishes is in doubt; what waits for it is drained
 * then. */

#include <stdbool.h>
#include <stdint.h>

#include "upstream/window.h"

struct doubts {
    struct window owed; /* publishes in doubt, by destination */
    uint64_t records; /* in the spool that the last pass of a drain has left there, or later ones */
    uint64_t appending; /* on their way there */
    uint64_t pass;      /* counts how often a destination came back: then all is counted anew */
};

bool doubts_hold(const struct doubts *, uint64_t destination);
/* Something is in doubt, or its copy is just being taken out of the spool. */
bool doubts_any(const struct doubts *);
/* One more publish of this destination is owed for; it must not be sent again meanwhile. */
void doubts_add(struct doubts *, uint64_t destination);
/* One of them is decided. True if the destination has come back with it: whoever drains looks from
 * the first record on. */
bool doubts_remove(struct doubts *, uint64_t destination);
void doubts_clear(struct doubts *);
