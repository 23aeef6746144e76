#pragma once

/* Methods that were sent and not answered when their upstream was lost, and that nobody but
 * RabbitMQ can answer: they are sent again, in their order, before the client may go on. On the
 * upstream of a client's own if RabbitMQ has, or may have, ended the shared one over them; else as
 * soon as the pool is connected again. If it cannot be, they are answered as in any outage. */

#include <stdbool.h>

#include "amqp/method.h"
#include "base/slab.h"

struct channel;
struct client;

/* Takes the payload over, whose frame stands around it; the client is held. */
void redo_add(struct channel *, amqp_method_number_t, struct span *payload);
/* True when nothing is left of it; else the client has to wait. */
bool redo_run(struct client *);
void redo_drop(struct channel *);
