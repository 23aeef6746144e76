#pragma once

/* The spool's queue of one (user, vhost): how much waits, who drains it, who is held at it. It
 * outlives its pools; a pool whose password was changed leaves the queue to its successor. */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "proxy/aside.h"
#include "proxy/declared.h"
#include "proxy/doubt.h"
#include "proxy/rate.h"

struct pool;
struct pools;
struct runtime;
struct drain;

enum {
    QUEUE_HOLD_MS = 50,
    QUEUE_HOLD_AGAIN_MS = 1000,
    QUEUE_TOLD = 64,
    QUEUE_SEEN_MAX = 65536, /* names; 1 MiB */
};

struct queue {
    struct runtime *rt;
    struct list node; /* in pools->queues */
    struct list pools;
    char *user, *vhost;
    char *identity; /* whose it is; `user` but for tokens' queues of version 0.1 */
    char *password; /* the last that RabbitMQ accepted; NULL if none is known */
    uint32_t id;    /* in the store; 0 until it has been put there */
    uint64_t handle;
    uint64_t made_ms;
    bool dropping;        /* the spool is being told to forget it */
    uint64_t waiting;     /* records committed and not yet deleted */
    uint64_t appending;   /* records on their way to the spool */
    uint64_t reserved;    /* publishes of open transactions */
    uint64_t retained;    /* publishes sent upstream and not yet confirmed */
    struct doubts doubts; /* destinations that RabbitMQ does not confirm */
    uint64_t rejected;
    uint64_t suspect; /* sequence number of the record that RabbitMQ's words point at: sent alone */
    uint32_t careful; /* records still to be sent few at a time: one of them is bad; 0: none */
    uint32_t careful_window;
    uint64_t failing;        /* sequence number of the record that RabbitMQ failed at, sent alone */
    uint32_t tries;          /* of it */
    uint64_t drain_again_ms; /* not before */
    struct asides asides;
    struct declared declared;  /* declarations that wait */
    struct declared seen;      /* queues and exchanges that exist, or will, by kind and name */
    struct declared promised;  /* those that RabbitMQ may have only once the drain gets there */
    uint64_t back_ms;          /* when RabbitMQ could be used again */
    uint64_t told[QUEUE_TOLD]; /* unroutable destinations that the log has heard of, a ring */
    unsigned told_next;
    uint64_t hold_until_ms, hold_again_ms;
    bool alone; /* what waits has ended a connection: drained on one that nobody else uses */
    struct drain *drain;
    bool paused;            /* a person has asked for no drain, until told otherwise or restarted */
    uint64_t drained;       /* messages that RabbitMQ took out of it since the start */
    struct rate drain_rate; /* 0 while nothing is drained */
};

struct queue *queue_find(struct pools *, const char *identity, const char *vhost);
struct queue *queue_new(struct pools *, const char *user, const char *identity, const char *vhost);
void queue_free(struct queue *);
void queue_set_password(struct queue *, const char *password);

/* True while something waits in the spool, or is on its way there. */
bool queue_has_backlog(const struct queue *);
/* True while publishes must go behind it: not all of that waits for destinations set aside. */
bool queue_must_drain(const struct queue *);
/* Places taken: by what waits, is on its way, or is in an open transaction. */
uint64_t queue_used(const struct queue *);
/* How many more messages find room within pool.publish_buffer_size. */
uint64_t queue_room(const struct queue *);
/* True if one more publish finds room within pool.publish_buffer_size. */
bool queue_has_room(const struct queue *);
/* The same for a publish to this destination: those that are set aside leave room for others. */
bool queue_has_room_for(const struct queue *, uint64_t destination);
/* True if so little is left that publishers are held until the queue is empty: at most
 * QUEUE_HOLD_MS at a time, so that a RabbitMQ which has stopped confirming holds nobody up. */
bool queue_holds(struct queue *);
/* Starts a drain if there is a backlog, a pool that can carry it, and none under way. */
void queue_drain_if_possible(struct queue *);
/* Pauses the drain, or lets it go on. What is under way is finished first. */
void queue_pause(struct queue *, bool paused);
/* Once a cleanup interval: forgets a login that nobody has used for spool.forget_after, if nothing
 * is left in its queue. */
void queue_cleanup(struct queue *, uint64_t now_ms);
/* After a reload: who waits for room, or for drain.rate, looks again. */
void queue_reconfigured(struct queue *);
/* An exchange or a queue (its declaring method says which) was declared here, or RabbitMQ has
 * answered for it: a passive declaration in an outage may be told that it exists. */
void queue_note_seen(struct queue *, uint32_t method, const uint8_t *name, size_t len);
bool queue_has_seen(const struct queue *, uint32_t method, const uint8_t *name, size_t len);
/* It was declared here while RabbitMQ was away, and waits in the spool. A `transient` one may be
 * gone although it was seen before. */
void queue_promise(struct queue *, uint32_t method, const uint8_t *name, size_t len,
                   bool transient);
/* What a declaration's payload declares; 0: neither a queue nor an exchange. */
uint64_t queue_promise_of(const uint8_t *payload, size_t len);
/* RabbitMQ has answered the drain's declaration of it, or it was rejected: who waits looks again.
 */
void queue_promise_ended(struct queue *, uint64_t promise);
bool queue_is_promised(const struct queue *, uint32_t method, const uint8_t *name, size_t len);
/* To be called after any of the counters or the drain changed: pools change their state. */
void queue_changed(struct queue *);
