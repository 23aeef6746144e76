#pragma once

/* The server's side of the AMQP handshake (0-9-1 section 2.2.4) with a client. */

#include <stdbool.h>

#include <stdint.h>

#include "amqp/frame.h"

struct client;

/* The longest frame before the connection is tuned. The protocol says 4096 (4.2.3), which a token
 * as password can exceed; RabbitMQ's own limit (initial_frame_max, 8192 since 4.1) holds behind it.
 */
enum { HANDSHAKE_FRAME_MAX = 16384 };

/* The protocol header is here: answers connection.start, or the header we speak and closes. */
void handshake_header(struct client *, const uint8_t header[8]);
/* A method on channel 0 before the connection is open. */
void handshake_method(struct client *, const struct frame *);
/* The decision about a client in CLIENT_PROVING: tune, or RabbitMQ's refusal. */
void handshake_proven(struct client *);
void handshake_refuse(struct client *, uint16_t code, const char *text);
