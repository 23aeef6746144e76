#pragma once

/* What the router's decisions are made of: where something goes, and why not. */

#include <stdbool.h>
#include <stdint.h>

#include "amqp/method.h"
#include "session/refusal.h"

struct channel;
struct pool;

enum route { ROUTE_DONE, ROUTE_HELD, ROUTE_REFUSED }; /* `why` says the rest (refusal.h) */

enum route route_refuse(struct refusal *why, enum refused whom, uint16_t code, const char *text,
                        amqp_method_number_t cause);
/* RabbitMQ is away, and there is no spool. */
enum route route_refuse_offline(struct refusal *why);
/* There is no room for this method's record: as spool.overflow says. ROUTE_DONE: what is published
 * is nacked. */
enum route route_refuse_full(struct channel *, const char *what, amqp_method_number_t,
                             struct refusal *why);
/* The words for a full publish buffer. */
const char *route_buffer_is_full(const struct pool *, char text[64]);
/* Why one more record has no room in buffer or spool; NULL: it has. */
const char *route_why_full(const struct pool *, char text[64]);
/* True if publishes of the pool can be stored. */
bool route_spools(const struct pool *);
