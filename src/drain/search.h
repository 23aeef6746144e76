#pragma once

/* How many records a drain may have under way, and the search for the one that RabbitMQ refuses.
 *
 * RabbitMQ closes a channel over one message and does not say which. If its words point at one of
 * them (suspect.h), that one is sent alone next. If not, or if they were wrong several times (a
 * property of the message may stand in them), all that were under way are sent again a few at a
 * time, and those of the step that fails one by one. What is refused while it is alone is the bad
 * one. The window shrinks then to what went well before it, and doubles as long as all goes
 * well, so that one bad message in ten is no great matter. Decisions only: no state of RabbitMQ's,
 * no I/O. */

#include <stdbool.h>
#include <stdint.h>

struct search {
    uint32_t window; /* records; grows to drain.window after a rejection */
    uint32_t fine;   /* that went well since the window last grew, or the rejection */

    uint64_t suspect; /* the record that RabbitMQ's words point at: it is sent alone; 0: none */
    uint32_t accused; /* suspects since one was refused: too many, and nothing is in the words */
    uint32_t careful; /* records still to be sent few at a time, one of them is bad; 0: none */
    uint32_t careful_window;

    uint64_t failing; /* the record that RabbitMQ failed at while it was alone; 0: none */
    uint32_t tries;   /* of it */
};

/* A drain begins: the whole window. What was known of records stays. */
void search_begin(struct search *, uint32_t window);
/* How many may be under way; never more than `most` (drain.window). */
uint32_t search_window(const struct search *, uint32_t most);
/* So many have gone well. */
void search_passed(struct search *, uint32_t count, uint32_t most);
/* So many are out of the queue. */
void search_settled(struct search *, uint32_t count);
/* One was rejected: it was the bad one. */
void search_found(struct search *);
/* RabbitMQ has refused one of `count` (at least two) records; `accused` is the one that its words
 * point at, 0 if they point at none. */
void search_narrow(struct search *, uint32_t count, uint64_t accused);
/* RabbitMQ has failed at this record, which was alone. Returns how many tries that makes. */
uint32_t search_failed(struct search *, uint64_t seq);
/* It is to be tried again, alone. */
void search_again(struct search *, uint64_t seq);
/* It is not tried again. */
void search_given_up(struct search *);
