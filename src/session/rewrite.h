#pragma once

/* The few methods that go on with other bytes than they came with: an empty queue name means the
 * channel's last declared queue (queue.bind, basic.consume and others, AMQP 0-9-1 domain
 * queue-name), which RabbitMQ cannot know when the upstream channel is another one. */

#include <stdbool.h>

#include "amqp/frame.h"
#include "amqp/method.h"

struct channel;
struct refusal;
struct slab;

/* Fills in an empty queue name. If it had to, *frame lies in *made, which gets one reference.
 * False, and *why says it, if there is no last queue (404, as RabbitMQ does), or memory is short.
 */
bool rewrite_queue_name(struct channel *, amqp_method_number_t, void *decoded, struct frame *frame,
                        struct slab **made, struct refusal *why);
/* Encodes a method, whose fields were decoded from one, into a slab of its own and of its size; the
 * frame keeps its channel. NULL if memory is short. */
struct slab *rewrite_encode(amqp_method_number_t, const void *decoded, struct frame *frame);
