#pragma once

/* Do the counters agree with what they count? Only builds for tests (AMQPBUF_CRASH_POINTS) look: at
 * every tick, and at the end, when nothing may be left. A difference is an event `unbalanced`, over
 * which the test of whatever it was fails (tests/support/proxy.py). */

struct proxy;

#ifdef AMQPBUF_CRASH_POINTS
/* At a moment when no callback is half way through. */
void balance_look(struct proxy *);
/* The same once all clients and upstreams are gone; if the spooler has nothing to do any more, the
 * queues count what the spool holds. */
void balance_look_at_end(struct proxy *);
#else
#define balance_look(proxy)        ((void)(proxy))
#define balance_look_at_end(proxy) ((void)(proxy))
#endif
