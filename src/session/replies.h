#pragma once

/* What RabbitMQ sends to a client: passed on with the client's channel number, in frames that it
 * takes, and noted where the proxy has to know of it. */

#include "amqp/frame.h"
#include "amqp/method.h"
#include "base/slab.h"

struct relay;

/* A method that is neither a confirm nor of the channel's close. If it answers a call, that is no
 * longer awaited. The relay has a channel. */
void replies_pass_method(struct relay *, struct slab *, const struct frame *, amqp_method_number_t);
/* A content header or body. */
void replies_pass_content(struct relay *, struct slab *, const struct frame *);
