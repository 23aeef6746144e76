#pragma once

/* The struct of proxy.h alone, for the files that proxy.c is built on. */

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "config/config.h"
#include "peer/runtime.h"
#include "pool/login.h"
#include "pool/pool.h"
#include "proxy/certificates.h"
#include "proxy/listener.h"
#include "session/client.h"
#include "upstream/lookup.h"
#include "upstream/upstream.h"

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
    struct runtime rt;
    struct upstreams upstreams;
    struct lookup lookup;
    struct pools pools;
    struct logins logins;
    struct clients clients;
    const struct config_sources *sources;
    enum proxy_stage stage;
    uint64_t stage_deadline_ms;
    uint64_t give_up_ms;    /* stopping: from then on a disk that hangs is not waited for */
    uint64_t stall_told_ms; /* when it was last said that the spool's disk hangs; 0: it does not */
    bool reload_wanted;     /* however many have asked for it since the last turn of the loop */
    int exit_status;
    const struct proxy_side *side;
    void *side_self;

    struct listener plain, tls;
    struct certificates certificates;
    uv_timer_t tick;
    uv_signal_t sigterm, sigint, sighup;
    uv_prepare_t before_poll;
    uv_idle_t not_done;  /* active: the loop only looks at its events, it does not wait for them */
    uint64_t cleaned_ms; /* when idle ones were looked for last; 0: not yet */
    uint64_t ticked_ms;  /* when the last tick was; 0: none yet, or it was passed over */
};
