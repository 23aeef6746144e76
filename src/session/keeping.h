#pragma once

/* What a relay retains of the publishes that RabbitMQ has not confirmed, and where they are
 * counted: in the relay, its upstream's window, the client, and the queue. Nothing else changes
 * those. */

#include <stddef.h>
#include <stdint.h>

#include "session/relay_struct.h"

/* Publishes to one destination. */
struct lot {
    uint64_t destination;
    uint32_t count;
    uint64_t bytes; /* of all of them */
};

/* An entry behind all others, to be sent next. It is counted by keeping_opened. */
struct retained *keeping_add(struct relay *, uint64_t client_tag, uint64_t destination,
                             size_t bytes);
/* The same for one message, which is taken over, with a copy if there is a spool, and counted. */
void keeping_retain(struct relay *, struct message *, uint64_t client_tag, uint64_t destination);
/* Whose publishes they are. */
struct publisher keeping_publisher(const struct relay *);
/* They are open now. */
void keeping_opened(struct relay *, const struct lot *);
/* They were open, and are no longer RabbitMQ's to confirm. */
void keeping_closed(struct relay *, const struct lot *);
/* Drops an open one. */
void keeping_forget(struct relay *, struct retained *);
/* RabbitMQ has not confirmed it in time: the message goes to the spool, in doubt. */
void keeping_doubt(struct relay *, struct retained *);
/* The upstream channel is gone, or done: publishes and awaited methods. */
void keeping_drop_all(struct relay *);
