#pragma once

/* A page of a mapped file that is not there: the file is shorter than what points into it, or the
 * disk cannot read it. The kernel says so with SIGBUS, and nothing can go on from there. */

/* From now on SIGBUS calls `say`, and ends the process with that exit status. The signal comes from
 * reading the map, never from inside the C library: `say` may print. */
void bus_error_explain(void (*say)(void), int exit_status);
