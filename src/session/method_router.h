#pragma once

/* Decides where a method goes that is no publish: to RabbitMQ, to an answer of the proxy's own,
 * nowhere yet, or back as an error. */

#include "session/route.h"

struct frame;
struct slab;

/* Any method that RabbitMQ would answer. */
enum route method_router_take(struct channel *, struct slab *, const struct frame *,
                              amqp_method_number_t, struct refusal *why);
