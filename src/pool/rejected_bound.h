#pragma once

/* The bound of a queue's rejected list (pool.rejected_size, pool.rejected_age): what goes beyond it
 * leaves the spool, the oldest first, as pool.rejected_overflow says. While the spool is nearly
 * full, rejected messages give way to those that wait. */

#include <stdbool.h>

struct queue;

/* Has what goes beyond the bound taken out, in steps. `aged`: also looks for those that are too
 * old. */
void rejected_bound_look(struct queue *, bool aged);
