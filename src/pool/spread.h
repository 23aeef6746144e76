#pragma once

/* Which shared upstream a publisher goes to. RabbitMQ handles a connection in one process, and a
 * socket has only so many bytes under way to a broker that is far: so a pool's publishers are
 * spread over pool.upstreams of them, when one is busy. */

#include <stdbool.h>

struct pool;
struct upstream;

/* An open shared upstream for a new relay, or NULL; asks for another one when all are busy. */
struct upstream *pool_pick_upstream(struct pool *);
enum {
    MOVE_MS = 1000,       /* the longest that one waits to be able to move, */
    MOVE_AGAIN_MS = 10000 /* and how long it stays then */
};

/* A publisher has to wait for room on this one, where it has something under way (`sends`) or not.
 * True if it should go on on another one, as soon as all that it has sent is answered, and others
 * stay; asks for another one if there is none yet. One moves at a time, or too many would: until
 * pool->move_ends_ms. */
bool pool_should_move(struct pool *, const struct upstream *from, bool sends);
