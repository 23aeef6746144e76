#pragma once

/* The only place that decides where a publish goes: live to RabbitMQ, to the spool, nowhere yet
 * (the client is held), or back to the client as an error. Other methods: method_router.h. */

#include <stdbool.h>

#include "amqp/content.h"
#include "amqp/method.h"
#include "session/route.h"

struct channel;

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
