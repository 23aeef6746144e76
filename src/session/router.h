#pragma once

/* The only place that decides where what a client sends goes: live to RabbitMQ, to the spool,
 * nowhere yet (the client is held), or back to the client as an error.
 * Of what is ROUTE_REFUSED, `why` says the rest (refusal.h). */

#include <stdbool.h>

#include "amqp/content.h"
#include "amqp/method.h"

struct channel;
struct refusal;

enum route { ROUTE_DONE, ROUTE_HELD, ROUTE_REFUSED };

/* A basic.publish begins: checks what RabbitMQ would close a shared upstream for, and that there
 * is room for it. */
enum route router_begin_publish(struct channel *, const struct publish *, struct refusal *why);
/* channel->content.message is complete. */
enum route router_publish(struct channel *, struct refusal *why);
/* How many publishes like the last one that the channel's relay retains may go the same way at
 * once, and how many bytes of them; 0: each has to be decided for itself. */
uint32_t router_room_alike(const struct channel *, uint64_t *bytes);
/* True if router_publish would hold the complete publish again, because too much is under way. */
bool router_must_wait(const struct channel *);
/* Any other method that RabbitMQ would answer. */
enum route router_method(struct channel *, struct slab *, const struct frame *,
                         amqp_method_number_t, struct refusal *why);
