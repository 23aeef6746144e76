#pragma once

/* The proxy at one moment, in the words that metrics and the status page use. */

#include <stdbool.h>

#include "peer/counters.h"
#include "spooler/gauges.h"

struct proxy;

enum snapshot_state {
    SNAPSHOT_LIVE,
    SNAPSHOT_DRAINING,
    SNAPSHOT_PAUSED, /* RabbitMQ is there, and a person has paused the drain */
    SNAPSHOT_OFFLINE,
    SNAPSHOT_LOGIN_REFUSED, /* RabbitMQ refuses the login that is known: messages wait for another
                             */
    SNAPSHOT_IDLE,          /* nobody needs RabbitMQ: no clients, nothing waits */
    SNAPSHOT_STATES,
};
extern const char *const snapshot_state_names[SNAPSHOT_STATES];

struct snapshot_queue {
    const char *user, *vhost;
    enum snapshot_state state;
    bool paused;        /* by a person, whatever the state: what waits, or will wait, stays */
    const char *reason; /* why it is offline or refused; NULL */
    uint32_t clients;
    uint64_t drained;          /* since the start */
    double drain_rate;         /* messages a second; 0 while nothing is drained */
    struct queue_gauges spool; /* id 0: not in the spool yet */
};

struct snapshot {
    struct counters counters;
    struct spool_view spool; /* all zeros without a spool */
    struct snapshot_queue *queues;
    uint32_t queue_count;
    uint64_t queue_max;                /* pool.publish_buffer_size */
    uint64_t memory_bytes, memory_max; /* of messages on their way */
    uint64_t spooler_busy_ms;          /* how long the spool's thread has been at what it does */
    const char *not_ready;             /* why publishes cannot be accepted; NULL: they can */
};

/* The texts are the proxy's own: valid until control returns to the loop. */
void snapshot_take(struct snapshot *, struct proxy *);
void snapshot_free(struct snapshot *);
