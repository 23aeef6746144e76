#pragma once

/* A publish that RabbitMQ has not confirmed in time, and its copy in the spool. A late confirm
 * deletes the copy. If the channel is lost first, or RabbitMQ refuses the publish, the copy stands
 * for it. Its destination is set aside meanwhile (doubts.h). */

#include <stdbool.h>
#include <stdint.h>

#include "pool/append.h"

struct doubt;
struct message;
struct pool;

/* Puts a publish that RabbitMQ has not confirmed in time into the spool; takes the message. */
struct doubt *doubt_new(struct pool *, struct publisher, struct message *, uint64_t client_tag);
/* RabbitMQ has it after all. Frees the doubt, now or when the copy is deleted. */
void doubt_confirmed(struct doubt *);
/* RabbitMQ has lost or refused it. Frees the doubt. */
void doubt_lost(struct doubt *);
