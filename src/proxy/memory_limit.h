#pragma once

/* listen.max_memory: a limit to the bytes of messages on their way, from the first byte read to
 * RabbitMQ's confirm or the spool's commit.
 *
 * At the limit nobody begins a publish until enough of what is under way has been answered. What
 * clients themselves keep unfinished (parts of frames, messages and transactions, answers that they
 * do not read, open channels) might never be: it may take half of the limit. Above that the clients
 * that hold most of it are refused. */

#include <stdbool.h>
#include <stdint.h>

struct proxy;

/* Bytes that count against it. */
uint64_t memory_limit_used(const struct proxy *);
/* True from the limit on, until an eighth of it is free again. */
bool memory_limit_reached(struct proxy *);
/* Each turn of the loop: refuses who keeps too much, and wakes who was held once there is room. */
void memory_limit_look(struct proxy *);
