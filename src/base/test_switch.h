#pragma once

/* Behaviour that a test takes away, to see that nothing depends on it, and numbers that it needs to
 * be others. Only builds with AMQPBUF_CRASH_POINTS look; in others every switch is off and every
 * number is the product's own. */

#ifdef AMQPBUF_CRASH_POINTS
#include <stdbool.h>
#include <stdint.h>
/* True if the environment variable is there and not empty. */
bool test_switch(const char *variable);
/* What the environment variable says in decimal, or `own`. */
uint64_t test_number(const char *variable, uint64_t own);
#else
#define test_switch(variable)      false
#define test_number(variable, own) (own)
#endif
