#pragma once

/* What waits in the spool for one login, as its drains see it: what is known of it outlives each of
 * them. */

#include <stdbool.h>
#include <stdint.h>

#include "drain/aside.h"
#include "drain/declared.h"
#include "drain/doubts.h"
#include "drain/names.h"
#include "drain/remains.h"
#include "drain/search.h"
#include "upstream/autotune.h"

struct backlog;
struct drain;
struct runtime;

struct backlog_events {
    /* Counters or the drain have changed. The drain may be gone. */
    void (*on_changed)(struct backlog *);
    /* True if RabbitMQ allows the user one more channel, as far as is known. */
    bool (*may_open)(const struct backlog *);
    /* RabbitMQ has, or will never have, what a declaration has promised: who waits looks again. */
    void (*on_promise_ended)(struct backlog *);
};

enum { BACKLOG_TOLD = 64 };

struct backlog {
    struct runtime *rt;
    const struct backlog_events *events;
    const char *user, *vhost; /* for the log */
    uint64_t handle;
    uint32_t id;       /* of its queue in the store; 0 until it has been put there */
    uint64_t waiting;  /* records committed and not yet deleted */
    uint64_t damaged;  /* records that could not be read, or taken out: not among those that wait */
    uint64_t rejected; /* messages that RabbitMQ has refused */
    uint64_t drained;  /* messages that RabbitMQ took out of it since the start */
    struct drain *drain;
    uint32_t left;     /* channels of its drains whose close RabbitMQ has not answered (left.h) */
    uint32_t probing;  /* channels beside those of its drains (probe.h) */
    uint64_t stuck_ms; /* when RabbitMQ was stuck on a channel; 0: it was not, or long ago */
    bool paused;       /* a person has asked for no drain, until told otherwise or restarted */
    bool is_followed;  /* its drain stays at the end, for what will come (spool.mode) */
    bool only_asides;  /* nothing is buffered any more, and all that waits is for `asides` */
    bool alone;        /* what waits has ended a connection: drained on one that nobody else uses */

    struct doubts doubts;     /* destinations that RabbitMQ does not confirm */
    struct asides asides;     /* destinations whose turn it is not */
    struct search search;     /* for the record that RabbitMQ refuses */
    struct autotune tuned;    /* drain.window = auto */
    uint64_t drain_again_ms;  /* not before */
    uint64_t back_ms;         /* when RabbitMQ was there again; an alarm is no absence */
    uint64_t confirm_ms;      /* what RabbitMQ took for the last confirm of a drain */
    struct declared declared; /* declarations that wait */
    struct names names;
    struct remains remains;      /* of what is damaged: what RabbitMQ has answered for */
    uint64_t told[BACKLOG_TOLD]; /* unroutable destinations that the log has heard of, a ring */
    unsigned told_next;
};

/* Empty. The texts must live as long. */
void backlog_init(struct backlog *, struct runtime *, const struct backlog_events *,
                  const char *user, const char *vhost);
/* How many of its records a drain may have under way. */
uint32_t backlog_window(const struct backlog *);
/* How many channels of RabbitMQ's it has. */
uint32_t backlog_channels(const struct backlog *);
/* It must not be drained. */
void backlog_deinit(struct backlog *);
/* RabbitMQ has answered for these, which could not be taken out of the spool. */
void backlog_note_remains(struct backlog *, const uint64_t *seqs, uint32_t count);
/* True if older ones wait that a publish there must not overtake, although others may be sent. */
bool backlog_holds(const struct backlog *, uint64_t destination);
/* The spool has dropped its queue: the numbers of another one begin again. */
void backlog_was_dropped(struct backlog *);
/* To be called after any of the counters or the drain changed. */
void backlog_changed(struct backlog *);
/* RabbitMQ has answered for this name (names.h), or its declaration was rejected. */
void backlog_promise_ended(struct backlog *, uint64_t name);
