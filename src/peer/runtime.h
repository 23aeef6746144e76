#pragma once

/* What every part of the proxy is given: the loop and the network that it runs on, its
 * configuration, the way to the disk, and what is counted over all of it. Loop thread only. */

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "config/config.h"
#include "net/stream.h"
#include "peer/counters.h"

struct spooler;

/* listen.max_memory: budget.h. */
struct budget {
    uint64_t kept; /* bytes that clients keep beside messages */
    bool is_short; /* the limit was reached, and an eighth of it is not free again */
};

enum { RUNTIME_TICK_MS = 250 };

struct runtime {
    uv_loop_t loop;
    struct net net;
    struct config *config;
    struct spooler *spooler; /* NULL: buffering is off and nothing waits */
    struct counters counters;
    struct budget budget;
    bool serves;         /* clients and RabbitMQ, as ever: also while the last clients finish */
    uint64_t next_id;    /* of clients and upstreams, for the log */
    uint64_t next_stamp; /* order of what was sent upstream */
};

static inline uint64_t runtime_now(const struct runtime *rt)
{
    return uv_now(&rt->loop);
}

static inline bool runtime_serves(const struct runtime *rt)
{
    return rt->serves;
}

/* What RabbitMQ cannot take goes to the spool. */
static inline bool runtime_buffers(const struct runtime *rt)
{
    return rt->spooler && rt->config->pool.publish_buffer_size > 0;
}
