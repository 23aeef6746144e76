#pragma once

/* Who pays when listen.max_memory (budget.h) is reached. What clients themselves keep unfinished
 * (parts of frames, messages and transactions, answers that they do not read, open channels) might
 * never be answered: it may take half of the limit. Above that the clients that hold most of it are
 * refused. */

struct proxy;

/* Each turn of the loop: refuses who keeps too much, and wakes who was held once there is room. */
void memory_limit_look(struct proxy *);
