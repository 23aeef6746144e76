#pragma once

/* Sends a client's methods again that a lost upstream had not answered (redo.h). On the upstream of
 * the client's own if RabbitMQ has, or may have, ended the shared one over them; else as soon as
 * the pool is connected again. If it cannot be, they are answered as in any outage. */

#include <stdbool.h>

struct client;

/* True when nothing is left of it; else the client has to wait. */
bool resend_run(struct client *);
