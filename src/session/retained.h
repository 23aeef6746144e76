#pragma once

/* The publishes of one channel of RabbitMQ that it has not confirmed, oldest first. They have
 * consecutive delivery tags. One that is confirmed ahead of an older one stays until that is. */

#include <stdbool.h>
#include <stdint.h>

#include "amqp/content.h"

struct doubt;

enum retained_state {
    RETAINED_OPEN,
    RETAINED_SETTLED, /* confirmed ahead of an older one */
    RETAINED_DOUBTED, /* not confirmed in time: there is a copy in the spool (doubt.h) */
};

/* What it costs beside the message: many thousands of them may be under way. */
struct retained {
    uint64_t stamp;      /* order among all publishes and methods of the proxy */
    uint64_t client_tag; /* 0: the client did not ask for confirms */
    uint64_t destination;
    uint64_t sent_ms;
    struct slab *slab; /* of a message in adjacent frames, from `at` on, with one reference */
    uint8_t *at;
    union {
        struct message *apart; /* any other message; NULL: none was kept */
        struct doubt *doubt;   /* of RETAINED_DOUBTED */
    };
    uint32_t bytes; /* of the message, also if it was not kept */
    enum retained_state state;
};

_Static_assert(sizeof(struct retained) <= 64, "a cache line each");

/* All zeros is empty. */
struct unconfirmed {
    struct retained *ring;
    uint32_t capacity, first, count; /* capacity is 0 or a power of two */
};

/* It must be empty. */
void unconfirmed_deinit(struct unconfirmed *);
/* To be called now and then: gives back what a burst has taken, if nothing is left of it. There may
 * be thousands of channels, each with room for its largest window. */
void unconfirmed_rest(struct unconfirmed *);
/* Valid until the next unconfirmed_add. */
static inline struct retained *unconfirmed_at(const struct unconfirmed *u, uint32_t index)
{
    return &u->ring[(u->first + index) & (u->capacity - 1)];
}
/* Makes room for one more. */
void unconfirmed_grow(struct unconfirmed *);
/* One more, OPEN, without a message. The caller fills in the rest. */
static inline struct retained *unconfirmed_add(struct unconfirmed *u)
{
    if (u->count == u->capacity)
        unconfirmed_grow(u);
    struct retained *entry = unconfirmed_at(u, u->count++);
    entry->state = RETAINED_OPEN; /* a new one */
    entry->slab = NULL;
    entry->apart = NULL;
    return entry;
}
/* The newest one; NULL if there is none. */
static inline const struct retained *unconfirmed_last(const struct unconfirmed *u)
{
    return u->count > 0 ? unconfirmed_at(u, u->count - 1) : NULL;
}
/* Takes the message over. */
void retained_keep(struct retained *, struct message *);
/* The same for one in adjacent frames; takes over a reference to the slab. */
static inline void retained_keep_adjacent(struct retained *entry, struct slab *slab, uint8_t *at)
{
    entry->slab = slab;
    entry->at = at;
}
static inline bool retained_is_kept(const struct retained *entry)
{
    return entry->slab || (entry->state == RETAINED_OPEN && entry->apart);
}
/* Its message, to look at: `view` or its own. It is kept. */
const struct message *retained_look(const struct retained *, struct message *view);
/* Gives the message away. It is kept. */
void retained_take(struct retained *, struct message *);
void retained_drop_apart(struct retained *); /* only for retained_drop */
/* Drops the message, if there is one. */
static inline void retained_drop(struct retained *entry)
{
    if (entry->slab) {
        slab_unref(entry->slab);
        entry->slab = NULL;
    } else if (entry->state == RETAINED_OPEN && entry->apart) {
        retained_drop_apart(entry);
    }
}
/* The one way to change an entry's state. */
void retained_move(struct retained *, enum retained_state);
/* Takes the oldest out; drops its message. */
void unconfirmed_drop_oldest(struct unconfirmed *);
/* Takes out those at the front that are SETTLED. */
void unconfirmed_drop_settled(struct unconfirmed *);
