#pragma once

/* What a person does with a queue's rejected messages. Works through them in steps of some
 * milliseconds, so that publishers are not kept waiting. */

#include <stdint.h>

#include "amqpbuf/status.h"

struct queue;

struct rejected_result {
    enum status status; /* of the last one; STATUS_OK also if fewer than all could be moved */
    uint64_t moved;
    const char *text; /* what stopped it; valid during the call */
};

typedef void (*rejected_done)(uint64_t owner, const struct rejected_result *);

/* Puts the message `seq`, or all (0), back behind what waits, as far as there is room. `done` is
 * called once, later, with the owner's handle. */
void rejected_retry(struct queue *, uint64_t seq, rejected_done done, uint64_t owner);
/* Drops the message `seq`, or all (0), for good. */
void rejected_discard(struct queue *, uint64_t seq, rejected_done done, uint64_t owner);
