#pragma once

/* What one login shares in a vhost: its upstreams and its state. A login is an identity and what it
 * may do (identity.h), however its password changes. docs/states.md draws it. */

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

/* The pool that knows this password; the best one if there are several, which without a vhost
 * (NULL) are those of all vhosts. */
struct pool *pool_find(struct pools *, const struct identity *, const char *password,
                       const char *vhost);
/* A pool with its queue; `login` as far as it is known. */
struct pool *pool_new(struct pools *, const struct identity *, const char *password,
                      const char *vhost, enum pool_login login);
void pools_init(struct pools *, struct upstreams *, const struct pools_events *);
/* Closes all pools and frees all queues. */
void pools_close(struct pools *);

/* RabbitMQ has accepted it: the login's pool, made if there is none, with this as its password or
 * (an older token) beside it. */
struct pool *pool_prove(struct pools *, const struct identity *, const char *password,
                        const char *vhost);
/* RabbitMQ has refused it; the vhost may be NULL: all of them. */
void pool_disprove(struct pools *, const struct identity *, const char *password, const char *vhost,
                   const struct upstream_end *);
/* Takes over an upstream that has just opened, or closes it if the pool has one. */
void pool_adopt(struct pool *, struct upstream *);
/* After a reload: with buffering on, the spool knows the login of whoever may publish. */
void pool_reconfigured(struct pool *);
/* Once a cleanup interval: closes what was idle for pool.idle_timeout. */
void pool_cleanup(struct pool *, uint64_t now_ms);
/* For some minutes this method is sent on upstreams of a client's own alone. */
void pool_beware(struct pool *, amqp_method_number_t);
bool pool_is_wary(const struct pool *, amqp_method_number_t);
/* RabbitMQ has closed a connection over a channel too many. */
void pool_learn_limit(struct pool *, const char *text);
/* RabbitMQ's words if one more channel is known to be too many, else NULL. */
const char *pool_channel_limit(const struct pool *);
