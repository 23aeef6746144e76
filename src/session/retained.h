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

struct retained {
    uint64_t stamp;      /* order among all publishes and methods of the proxy */
    uint64_t client_tag; /* 0: the client did not ask for confirms */
    uint64_t destination;
    uint64_t bytes; /* of the message, which may have been dropped */
    uint64_t sent_ms;
    enum retained_state state;
    struct doubt *doubt; /* of RETAINED_DOUBTED */
    struct message message;
};

/* All zeros is empty. */
struct unconfirmed {
    struct retained *ring;
    uint32_t capacity, first, count; /* capacity is 0 or a power of two */
};

/* It must be empty. */
void unconfirmed_deinit(struct unconfirmed *);
/* Valid until the next unconfirmed_add. */
static inline struct retained *unconfirmed_at(const struct unconfirmed *u, uint32_t index)
{
    return &u->ring[(u->first + index) & (u->capacity - 1)];
}
/* One more, OPEN; takes the message over. The caller fills in the rest. */
struct retained *unconfirmed_add(struct unconfirmed *, struct message *);
/* The one way to change an entry's state. */
void retained_move(struct retained *, enum retained_state);
/* Takes the oldest out, with its message. */
void unconfirmed_drop_oldest(struct unconfirmed *);
/* Takes out those at the front that are SETTLED. */
void unconfirmed_drop_settled(struct unconfirmed *);
