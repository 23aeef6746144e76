#pragma once

/* A publish that RabbitMQ has not confirmed in time, and its copy in the spool. A late confirm
 * deletes the copy. If the channel is lost first, or RabbitMQ refuses the publish, the copy stands
 * for it. Its destination is set aside meanwhile (doubts.h). */

#include <stdbool.h>
#include <stdint.h>

#include "pool/append.h"

struct doubt;
struct frame;
struct message;
struct pool;
struct returned;

/* Puts a publish that RabbitMQ has not confirmed in time into the spool; takes the message. */
struct doubt *doubt_new(struct pool *, struct publisher, struct message *, uint64_t client_tag);
/* RabbitMQ has it after all. Frees the doubt, now or when the copy is deleted. */
void doubt_confirmed(struct doubt *);
/* True if RabbitMQ may give back this one (returned.h), and has not done so before. */
bool doubt_is_returned(const struct doubt *, const struct returned *, const struct frame *header,
                       bool as_sent);
/* It has, nobody hears of it, and a confirm follows: the copy is kept as rejected (P4). */
void doubt_note_return(struct doubt *, uint16_t code, const char *text);
/* RabbitMQ has lost or refused it. Frees the doubt. */
void doubt_lost(struct doubt *);
