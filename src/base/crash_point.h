#pragma once

/* Named places at which a test can kill the process, as a power cut or kill -9 would, or stop it
 * until it sends SIGCONT. Only builds with AMQPBUF_CRASH_POINTS contain them. */

#ifdef AMQPBUF_CRASH_POINTS
/* Kills the process if AMQPBUF_TEST_CRASH_AT is "name:n" and this is the n-th time, counted from 1;
 * with AMQPBUF_TEST_STOP_AT it is stopped. */
void crash_point(const char *name);
#define CRASH_POINT(name) crash_point(name)
#else
#define CRASH_POINT(name) ((void)0)
#endif
