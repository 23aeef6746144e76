#pragma once

/* Methods that were sent and not answered when their upstream was lost, and that nobody but
 * RabbitMQ can answer: they are sent again, in their order, before the client may go on (resend.h).
 * NULL is an empty list. */

#include <stdint.h>

#include "amqp/method.h"
#include "base/slab.h"

struct redo;

struct redo_call {
    amqp_method_number_t method;
    struct span payload; /* its frame stands around it */
};

/* Takes the payload over. `failures` counts the pool's dials that have failed by now. */
void redo_add(struct redo **, amqp_method_number_t, struct span *payload, uint64_t failures);
/* Of a list that is not empty. */
const struct redo_call *redo_first(const struct redo *);
void redo_drop_first(struct redo **);
/* As it was when the first one was added. */
uint64_t redo_failures(const struct redo *);
void redo_drop(struct redo **);
