#pragma once

/* listen.max_memory: a limit to the bytes of messages on their way, from the first byte read to
 * RabbitMQ's confirm or the spool's commit. At the limit nobody begins a publish until enough of
 * what is under way has been answered. */

#include <stdbool.h>
#include <stdint.h>

struct budget;
struct runtime;

/* Bytes that count against it. */
uint64_t budget_used(const struct budget *);
/* True from the limit on, until budget_recovers. */
bool budget_is_short(struct runtime *);
/* True if it was short, and is no longer: who was held may go on. */
bool budget_recovers(struct runtime *);
