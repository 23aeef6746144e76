#pragma once

/* What RabbitMQ says of the records that a drain has sent, and what becomes of them: deleted,
 * rejected, or sent again. Whose fault a refusal is, blame.h says. */

#include <stdbool.h>
#include <stdint.h>

struct drain;

/* What RabbitMQ has said of publishes. */
struct verdict {
    uint64_t tag;
    bool multiple, nack;
    bool all; /* and of declarations: the channel is closed, without confirms */
};

/* Those that it concerns have been taken by RabbitMQ, or refused, if they were returned or nacked.
 */
void verdict_apply(struct drain *, const struct verdict *);
/* RabbitMQ has answered the oldest declaration: it answers the methods of a channel in order. False
 * if none was open. */
bool verdict_declared(struct drain *);
/* The channel, or the connection, is closed over one of what was sent: the first that is not
 * confirmed, if it was alone, else one that has to be found. `is_sure`: nobody else can have been
 * the reason, so that it may be rejected for its own sake. */
void verdict_closed(struct drain *, uint16_t code, const char *text, bool is_sure);
