#pragma once

/* The proxy: one loop, its clients, pools, queues and the spooler, and their start and end. */

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "base/list.h"
#include "config/config.h"
#include "net/stream.h"
#include "proxy/broker.h"
#include "proxy/counters.h"
#include "proxy/listener.h"
#include "proxy/login.h"
#include "proxy/lookup.h"
#include "proxy/targets.h"

struct spooler;
struct tls_context;

enum proxy_stage {
    PROXY_RUNNING,
    PROXY_FINISHING, /* no new clients; those that are there have a moment to end by themselves */
    PROXY_SETTLING,  /* accepts nothing more; brings what was accepted to safety */
    PROXY_LEAVING,   /* clients were told; waits for them to go */
    PROXY_CLOSING,   /* every handle is being closed */
};

struct proxy;

/* What is served beside AMQP, on the same loop. */
struct proxy_side {
    /* Called once, before anything is accepted. False, after a line in the log, ends the start. */
    bool (*open)(struct proxy *, void **self);
    /* Closes its handles; called if `open` gave a self that is not NULL. */
    void (*close)(void *self);
};

struct proxy {
    uv_loop_t loop;
    struct net net;
    struct config *config;
    const struct config_sources *sources;
    struct targets targets;
    struct lookup lookup;
    struct spooler *spooler; /* NULL: buffering is off and nothing waits */
    struct broker broker;
    struct counters counters;
    enum proxy_stage stage;
    uint64_t stage_deadline_ms;
    uint64_t give_up_ms;    /* stopping: from then on a disk that hangs is not waited for */
    uint64_t stall_told_ms; /* when it was last said that the spool's disk hangs; 0: it does not */
    int exit_status;
    const struct proxy_side *side;
    void *side_self;

    struct listener plain, tls;
    struct tls_context *server_tls, *client_tls; /* NULL: not used */
    uv_timer_t tick;
    uv_signal_t sigterm, sigint, sighup;
    uv_prepare_t before_poll;
    uv_idle_t not_done; /* active: the loop only looks at its events, it does not wait for them */
    uint64_t cleanup_due_ms;
    uint64_t ticked_ms; /* when the last tick was; 0: none yet, or it was passed over */

    struct list clients, upstreams, pools, queues;
    struct logins logins;
    bool memory_is_short; /* memory_limit.h */
    struct list waking;   /* pools whose held clients may try again */
    struct list acking;   /* channels with confirms to send */
    uint64_t next_id;     /* of clients and upstreams, for the log */
    uint64_t next_stamp;  /* order of what was sent upstream */
};

enum { PROXY_TICK_MS = 250, PROXY_ROUNDS_MAX = 16 };

/* Clients and RabbitMQ are served as ever: also while the last clients finish. */
static inline bool proxy_serves(const struct proxy *proxy)
{
    return proxy->stage <= PROXY_FINISHING;
}

/* Runs until it is told to end; `sources` are read again on SIGHUP. Returns the exit status. */
int proxy_run(struct config *config, const struct config_sources *sources,
              const struct proxy_side *side);

static inline bool proxy_buffers(const struct proxy *proxy)
{
    return proxy->spooler && proxy->config->pool.publish_buffer_size > 0;
}

static inline uint64_t proxy_now(const struct proxy *proxy)
{
    return uv_now(&proxy->loop);
}
