#pragma once

/* The proxy's second thread, run in the first one: it goes on when it is told to, until it gives
 * way. There is one at a time. */

#include <stdbool.h>

/* Ready to run; runs nothing yet. */
void fiber_begin(void (*run)(void *arg), void *arg);
/* Runs it until it gives way, or ends. */
void fiber_resume(void);
/* From inside: back to who resumed it. */
void fiber_give_way(void);
bool fiber_is_inside(void);
/* It has come to the end of `run`, or was never begun. */
bool fiber_is_over(void);
