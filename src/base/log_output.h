#pragma once

/* Standard error, for the log: whoever reads it may stand still (a pipe whose reader hangs, a
 * terminal that was stopped), and nothing else may wait for him. Or it is a file, and its disk is
 * full. */

#include <stdint.h>

#include <sys/uio.h>

/* Writes one line, of two parts, in one piece. It is lost, and counted, where it is not taken
 * within a moment, or not whole. Any thread. */
void log_output_write(const struct iovec line[2]);
/* How many were lost, once lines are taken again; each is told once. */
uint64_t log_output_lost(void);
