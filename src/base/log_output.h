#pragma once

/* Standard error, for the log: whoever reads it may stand still (a pipe whose reader hangs, a
 * terminal that was stopped), and nothing else may wait for him. */

#include <stdint.h>

#include <sys/uio.h>

/* Writes one line in one piece. It is lost, and counted, where it is not taken within a moment. Any
 * thread. */
void log_output_write(const struct iovec *parts, int count);
/* How many were lost, once lines are taken again; each is told once. */
uint64_t log_output_lost(void);
