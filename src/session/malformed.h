#pragma once

/* What cannot be read, whatever channel it is for. */

#include <stdbool.h>

#include "amqp/frame.h"

struct client;

/* True if RabbitMQ would find nothing to read in the frame, or its method cut off or wrong inside:
 * the client is refused as RabbitMQ would. Of a basic.publish only the number is looked at here. */
bool malformed_refuse(struct client *, const struct frame *);
