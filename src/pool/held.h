#pragma once

/* The clients of a pool whose next frame has to wait: for a window, room, a channel number,
 * RabbitMQ. Whoever makes one of those free wakes all of them, in turn; those that must wait again
 * stay. */

struct member;
struct pool;
struct pools;

/* It waits until on_wake; may be called twice. Does nothing without a pool. */
void held_wait(struct member *);
/* It waits no longer: it tries again, or is about to leave. */
void held_let_go(struct member *);
/* Lets all of them try again before the loop polls next. */
void held_wake(struct pool *);
/* Wakes who is to be woken. */
void held_run(struct pools *);
