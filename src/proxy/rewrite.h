#pragma once

/* The few methods that go on with other bytes than they came with: an empty queue name means the
 * channel's last declared queue (basic.publish, queue.bind and others, AMQP 0-9-1 domain
 * queue-name), which RabbitMQ cannot know when the upstream channel is another one. */

#include <stdbool.h>

#include "amqp/content.h"
#include "amqp/method.h"

struct channel;

/* Fills in an empty queue name. If it had to, *frame lies in *made, which gets one reference.
 * False if there is no last queue: the channel was refused (404), as RabbitMQ does; or if memory is
 * short: the client was (506). */
bool rewrite_queue_name(struct channel *, amqp_method_number_t, void *decoded, struct frame *frame,
                        struct slab **made);
/* The same for a publish to the default exchange with an empty routing key; without a last queue it
 * stays as it is, and RabbitMQ finds no queue for it. False if memory is short. */
bool rewrite_publish(const struct channel *, const struct publish *, struct frame *frame,
                     struct slab **made);
/* Encodes a method, whose fields were decoded from one, into a slab of its own and of its size; the
 * frame keeps its channel. NULL if memory is short. */
struct slab *rewrite_encode(amqp_method_number_t, const void *decoded, struct frame *frame);
