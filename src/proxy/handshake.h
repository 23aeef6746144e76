#pragma once

/* The server's side of the AMQP handshake (0-9-1 section 2.2.4) with a client. */

#include <stdbool.h>

#include "amqp/frame.h"

struct client;

/* The protocol header is here: answers connection.start, or the header we speak and closes. */
void handshake_header(struct client *, const uint8_t header[8]);
/* A method on channel 0 before the connection is open. */
void handshake_method(struct client *, const struct frame *);
