#pragma once

/* The spool's queue of one (user, vhost): how much waits, who drains it, who is held at it. It
 * outlives its pools; a pool whose password was changed leaves the queue to its successor. */

#include <stdbool.h>
#include <stdint.h>

#include "base/index.h"
#include "base/list.h"
#include "drain/backlog.h"
#include "drain/rate.h"

struct queue_user;
struct runtime;
struct upstream;

/* What a queue asks of its pools, which are the logins that may empty it. */
struct queue_user_events {
    /* Its counters, or its drain, have changed: the state follows, and who is held looks again. */
    void (*on_changed)(struct queue_user *);
    /* Who is held looks again. */
    void (*on_wake)(struct queue_user *);
    /* The spool has forgotten the login. */
    void (*on_forgotten)(struct queue_user *);
    /* Something waits: a connection is wanted. */
    void (*on_wanted)(struct queue_user *);
    /* True if somebody uses it, or has within the last `within_ms`. */
    bool (*is_used)(const struct queue_user *, uint64_t now_ms, uint64_t within_ms);
    /* True if RabbitMQ allows the user one more channel, as far as is known. */
    bool (*may_open)(const struct queue_user *);
    /* An open upstream that a drain may use now, or NULL: later, perhaps. */
    struct upstream *(*pick_upstream)(struct queue_user *);
};

/* Embedded in a pool. */
struct queue_user {
    struct list node; /* in queue->users */
    const struct queue_user_events *events;
};

enum { QUEUE_HOLD_MS = 50, QUEUE_HOLD_AGAIN_MS = 1000 };

struct queues {
    struct list all;
    struct index by_name; /* and vhost */
};

struct queue {
    struct runtime *rt;
    struct queues *queues;
    struct backlog backlog;
    struct list node; /* in queues->all */
    /* In queues->by_name, as the identity's, and the user's if that has another name. */
    struct index_node by_identity, by_user;
    struct list users;
    char *user, *vhost;
    char *identity; /* whose it is; `user` but for tokens' queues of version 0.1 */
    char *password; /* the last that RabbitMQ accepted; NULL if none is known */
    uint64_t handle;
    uint64_t made_ms;
    bool has_tokens;        /* its logins' rights may differ, and a record does not know its own */
    bool is_slow;           /* RabbitMQ confirms late: for spool.mode = slow */
    bool dropping;          /* the spool is being told to forget it */
    bool trimming;          /* what is beyond the bound of the rejected list is being taken out */
    uint64_t trim_again_ms; /* not before */
    uint64_t aged_after;    /* where the next look for those that are too old begins */
    uint64_t appending;     /* records on their way to the spool */
    uint64_t reserved;      /* publishes of open transactions */
    uint64_t committing;    /* and of those that RabbitMQ has been asked to commit */
    uint64_t retained;      /* publishes sent upstream and not yet confirmed */
    uint64_t hold_until_ms, hold_again_ms;
    struct rate drain_rate; /* 0 while nothing is drained */
};

/* `queues` is the list of all of them. */
struct queue *queue_find(const struct queues *, const char *identity, const char *vhost);
struct queue *queue_new(struct runtime *, struct queues *, const char *user, const char *identity,
                        const char *vhost);
void queue_free(struct queue *);
void queue_set_password(struct queue *, const char *password);

/* True while something waits in the spool, or is on its way there. */
bool queue_has_backlog(const struct queue *);
/* True while publishes must go behind it: not all of that waits for destinations set aside. */
bool queue_must_drain(const struct queue *);
/* True if nothing is buffered any more, and what waits still holds up its own destinations alone.
 */
bool queue_holds_few(const struct queue *);
/* True while publishes go to the spool although RabbitMQ is there (spool.mode): the drain, which
 * does not end then, carries them on. */
bool queue_stores_first(const struct queue *);
/* RabbitMQ has let a publish wait for so long. With spool.mode = slow publishes are stored first
 * from now on, until its confirms are in time again. */
void queue_note_late(struct queue *, uint64_t ms);
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
/* RabbitMQ has answered for a queue or an exchange of this kind (names.h). */
void queue_note_seen(struct queue *, uint32_t kind, const uint8_t *name, size_t len);
/* RabbitMQ has deleted it. */
void queue_note_gone(struct queue *, uint32_t kind, const uint8_t *name, size_t len);
/* RabbitMQ has said, with 404, what is not there. */
void queue_note_missing(struct queue *, const char *text);
/* Something waits now: there may be no connection to RabbitMQ for it yet. */
void queue_wants_connection(struct queue *);
/* A place is free: who is held looks again. */
void queue_wake(struct queue *);
/* To be called after any of the counters or the drain changed: its users change their state. */
void queue_changed(struct queue *);
