#pragma once

/* The structs of pool.h alone, for the files that pool.c is built on. */

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "base/index.h"
#include "base/list.h"
#include "pool/backoff.h"
#include "pool/caution.h"
#include "pool/identity.h"
#include "pool/queue.h"
#include "pool/secrets.h"
#include "upstream/upstream.h"

struct job;
struct member;
struct pool;
struct runtime;

enum pool_state {
    POOL_OFFLINE,  /* no upstream, or RabbitMQ has blocked it: publishes go to the spool */
    POOL_DRAINING, /* publishes go behind the backlog while it is replayed */
    POOL_LIVE,     /* publishes pass through */
};

enum pool_login {
    LOGIN_UNKNOWN, /* RabbitMQ has not been asked yet: of upstream.url, or unverified */
    LOGIN_PROVEN,
    LOGIN_SUSPECTED, /* was proven, and has been refused a moment ago (refused_ms) */
    LOGIN_REFUSED,
};

/* What they tell of to whoever has the clients. */
struct pools_events {
    /* A shared one; its links are still attached. */
    void (*on_upstream_lost)(struct pool *, struct upstream *, const struct upstream_end *);
    /* Messages are on their way to the spool (JOB_APPEND): closes of who has sent them wait. */
    void (*on_append)(const struct job *);
    /* They are stored, or could not be: job->status. */
    void (*on_appended)(const struct job *);
};

/* All of them, with the spool's queues. */
struct pools {
    struct runtime *rt;
    struct upstreams *upstreams;
    const struct pools_events *events;
    const struct upstream_events *upstream_events; /* of the shared ones */
    struct list all;
    struct index by_user, by_login; /* name alone; name and vhost */
    struct queues queues;
    struct list waking; /* pools whose held clients may try again */
};

struct pool {
    struct runtime *rt;
    struct pools *pools;
    struct list node; /* in pools->all */
    struct index_node by_user, by_login;
    struct queue_user use; /* of its queue */
    struct queue *queue;
    uint64_t handle;
    char *user, *vhost; /* `user` is the identity's name, and the queue's */
    char *dial_user;
    struct secrets secrets;
    uint64_t rights, expires_s; /* of the current secret (identity.h) */
    enum pool_state state;
    uint64_t buffering_since_ms; /* what is published goes to the spool; 0: it does not */
    enum pool_login login;
    bool unreachable;  /* the last try found no RabbitMQ; the next is timed */
    char trouble[128]; /* why the last upstream was lost or not opened; empty while all is well */
    bool pinned;       /* named in upstream.url: stays connected */
    bool storing;      /* its login is being written to the spool */
    struct list upstreams; /* shared ones */
    unsigned dialing;
    unsigned tried; /* brokers, since the last wait */
    uv_timer_t retry;
    struct backoff backoff; /* of the retry */
    uint64_t refused_ms;    /* since when its login is refused */
    unsigned failures;      /* tries in a row that did not find RabbitMQ */
    uint64_t away_ms;       /* when the last try was not answered; 0: RabbitMQ has answered since */
    struct backoff more;    /* of one upstream more than it has */
    struct backoff alone;   /* of one for a drain alone */
    struct list members;
    struct list waiting;   /* members whose login is being written to the spool */
    struct list held;      /* members whose next frame has to wait */
    struct list wake_node; /* in pools->waking */
    unsigned client_count;
    unsigned relay_count;  /* that name this pool, also of clients that are gone */
    uint64_t move_ends_ms; /* a publisher goes on on another upstream (spread.h); 0: none does */
    uint64_t idle_since_ms;
    struct caution caution;
};
