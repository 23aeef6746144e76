#pragma once

/* From RabbitMQ's connection.start to its open-ok: what is sent, and what is kept of the answers.
 * on_tuned and on_open of the owner come from here. */

#include "upstream/upstream_struct.h"

void opening_start(struct upstream *, const struct frame *, const amqp_connection_start_t *);
void opening_tune(struct upstream *, const amqp_connection_tune_t *);
/* Sends tune-ok and connection.open. */
void opening_enter(struct upstream *);
void opening_open_ok(struct upstream *);
