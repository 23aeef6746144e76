#pragma once

/* How a client's connection ends. */

#include <stdint.h>

#include "amqp/frame.h"
#include "amqp/method.h"

struct client;

/* Closes a connection on which all is said. */
void ending_close(struct client *, const char *reason);
/* Sends connection.close and lets the client answer. */
void ending_refuse(struct client *, uint16_t code, const char *text, amqp_method_number_t cause);
/* The same for a reason that is not its own: complete publishes that are on their way are stored
 * as long as there is room. Not those of channels with confirms or transactions: their publisher
 * knows what was not answered, and sends it again itself. */
void ending_leave(struct client *, uint16_t code, const char *text, amqp_method_number_t cause);
/* It has sent connection.close. */
void ending_begin(struct client *);
/* A channel is gone, or its publishes are safe: a close that waits may be answered. */
void ending_settled(struct client *);
/* What a client sends that is closing: only the end of the conversation matters (1.4.2.3). */
void ending_frame(struct client *, const struct frame *);
/* The same where its frames begin is not known any more. A client whose bytes were left unread
 * would find a reset in place of the error. */
void ending_garbled(struct client *);
