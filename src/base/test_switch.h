#pragma once

/* Behaviour that a test takes away, to see that nothing depends on it. Only builds with
 * AMQPBUF_CRASH_POINTS look; in others every switch is off. */

#ifdef AMQPBUF_CRASH_POINTS
#include <stdbool.h>
/* True if the environment variable is there and not empty. */
bool test_switch(const char *variable);
#else
#define test_switch(variable) false
#endif
