#pragma once

/* What a client would lose together with a channel of RabbitMQ's: the consumers on it, and the
 * deliveries that it has not settled. Read off the methods that pass in both directions. */

#include <stdbool.h>
#include <stdint.h>

#include "amqp/frame.h"
#include "amqp/method.h"
#include "base/slab.h"

struct consumer {
    uint64_t name; /* of its tag */
    bool acks;
};

/* An ack, nack or reject. One in a transaction counts with its commit, if that is answered. */
struct settlement {
    enum { SETTLES_ONE, SETTLES_UP_TO, SETTLES_COMMIT /* a tx.commit behind others */ } kind;
    uint64_t tag;
};

/* All zeros is empty. */
struct consuming {
    struct consumer *consumers;
    uint32_t consumer_count, consumer_capacity;
    uint32_t acking; /* consumers that settle what they get */

    /* Delivery tags, ascending, from `tag_first` on; those that are settled stay for a while,
     * marked.
     */
    uint64_t *tags;
    uint32_t tag_first, tag_count, tag_capacity;
    uint32_t unsettled;

    struct settlement *held; /* of transactions that RabbitMQ has not committed yet */
    uint32_t held_count, held_capacity;
};

void consuming_deinit(struct consuming *);
/* A method of RabbitMQ; `call` is the client's method that it answers, NULL if it answers none. */
void consuming_hear(struct consuming *, amqp_method_number_t, const struct frame *,
                    const struct span *call);
/* A method of the client. */
void consuming_say(struct consuming *, amqp_method_number_t, const struct frame *,
                   bool in_transaction);
/* A tx.commit that the client has not sent itself. */
void consuming_commit(struct consuming *);
/* Nothing would be lost. */
static inline bool consuming_is_empty(const struct consuming *c)
{
    return c->consumer_count == 0 && c->unsettled == 0;
}
