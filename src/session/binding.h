#pragma once

/* Which upstream channel a client's channel uses. */

#include "session/route.h"

/* Binds the channel to a relay on the upstream where it belongs, if it is not. With `forgets` it is
 * about to send what nothing confirms. */
enum route binding_find(struct channel *, bool forgets, struct refusal *why);
/* The relay is the one that binding_find would give it. */
bool binding_stays(const struct channel *);
/* A transaction that RabbitMQ has begun to get goes on there, whatever becomes of the pool's other
 * upstreams, unless an alarm blocks this one: then what RabbitMQ has is given up with its channel,
 * and it goes on here, from the copies. False: the client has to wait, because something is awaited
 * on that channel, or it consumes. */
bool binding_take_over(struct channel *);
