#pragma once

/* Destinations that a drain has set aside: RabbitMQ confirms nothing for them, or fails at their
 * messages, or finds no route yet. Their messages wait, in their order; all others go on. What is
 * known of them is the queue's, and outlives the drain. A destination is that of window.h: an
 * exchange and a routing key.
 *
 * SILENT: RabbitMQ has been silent for pool.confirm_timeout. Nothing more is sent there until it
 * has answered all that was, or until a long while is over.
 *
 * RESTING: RabbitMQ failed at its first message, which is not tried again before `again_ms`.
 *
 * TRYING: its messages go out again, one at a time first, then more and more; when none is left
 * behind what all others have reached, it is one of them again. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/number_map.h"

enum aside_state { ASIDE_SILENT, ASIDE_RESTING, ASIDE_TRYING };

struct aside {
    uint64_t destination;
    enum aside_state state;
    uint64_t cursor;    /* its records up to here are settled or under way */
    uint64_t scanned;   /* no more of its records were found up to here; 0: not known */
    uint64_t failing;   /* sequence number of the record that RabbitMQ failed at; 0: none */
    uint32_t tries;     /* of that one */
    uint64_t again_ms;  /* SILENT, RESTING: not before */
    uint32_t under_way; /* sent in this drain, and not answered */
    uint32_t fine;      /* confirmed in a row while TRYING */
};

struct asides {
    struct aside *all;
    uint32_t count, capacity;
    struct number_map places; /* where in `all` a destination is */
    uint64_t pass;            /* doubts.pass when their turns last began at the first record */
};

/* NULL if it is not set aside. Valid until the next change. */
struct aside *asides_find(const struct asides *, uint64_t destination);
/* The one that is set aside already, or a new one, TRYING. */
struct aside *asides_add(struct asides *, uint64_t destination, uint64_t cursor);
void asides_remove(struct asides *, struct aside *);
void asides_clear(struct asides *);
/* A destination has come back from doubt since their last pass: while it was in doubt, records of
 * it were left out of its own turn as well. So all turns begin at the first record once more.
 * Nothing is under way. */
void asides_begin_pass(struct asides *, uint64_t pass);

/* The one way to change its state. */
void aside_move(struct aside *, enum aside_state);
/* Its records behind this one are to be sent once more. */
void aside_rewind(struct aside *, uint64_t seq);
/* RabbitMQ failed at this record of it, which is to be tried again. Counts the tries of the first
 * such record; returns how many that one has had, 0 if this is a later one. */
uint32_t aside_failed(struct aside *, uint64_t seq);
void aside_rest(struct aside *, uint64_t now_ms, uint32_t pause_ms);
/* RabbitMQ is silent, and has not answered all that was sent: more would wait behind that. */
bool aside_owes(const struct aside *);
/* RabbitMQ has taken this record of it. */
void aside_taken(struct aside *, uint64_t seq);
/* The queue was looked through for it up to here, 0: not so far, and so many were found. If that is
 * none, the one that RabbitMQ failed at cannot be read any more. */
void aside_scanned(struct aside *, uint64_t up_to, uint32_t found);
void aside_is_silent(struct aside *, uint64_t now_ms, uint32_t pause_ms);
/* A silent or resting one whose time has come is TRYING again: true. */
bool aside_wakes(struct aside *, uint64_t now_ms);
/* How many more may be sent there now. */
uint32_t aside_room(const struct aside *, uint32_t window);
