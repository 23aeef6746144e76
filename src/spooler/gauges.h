#pragma once

/* What the spooler's thread shows of the spool to the loop: queues, use, commit times. Written by
 * the one after each batch, copied by the other when somebody asks. */

#include <stdint.h>

#include <uv.h>

#include "spool/store.h"

/* Bounds of the commit times in seconds, Prometheus' `le`; one more bucket has no bound. */
enum { COMMIT_BUCKETS = 14 };
extern const double commit_bounds_s[COMMIT_BUCKETS];

struct queue_gauges {
    uint32_t id;
    uint64_t messages, bytes, rejected;
    uint64_t first_seq, last_seq;        /* of what waits; 0 when nothing does */
    uint64_t oldest_at_us, newest_at_us; /* received, since 1970 UTC */
};

struct spool_view {
    uint64_t used_bytes, max_bytes;
    uint64_t held_bytes;                  /* free, but another process still reads them */
    uint64_t commits[COMMIT_BUCKETS + 1]; /* by time, each counted once */
    double commit_sum_s;
    struct queue_gauges *queues; /* by id */
    uint32_t queue_count;
};

/* NULL if it is not there. */
const struct queue_gauges *spool_view_find(const struct spool_view *, uint32_t id);

struct gauges {
    uv_mutex_t lock; /* of `view` */
    struct spool_view view;
    uint32_t capacity; /* of its queues */
};

void gauges_init(struct gauges *);
void gauges_deinit(struct gauges *);
void gauges_add_commit(struct gauges *, uint64_t duration_ns);
/* Takes what has changed in `store` since the last call, outside of a transaction. */
void gauges_update(struct gauges *, struct store *store);
/* The queue was dropped. */
void gauges_forget(struct gauges *, uint32_t id);
/* A copy; the caller frees view->queues. */
void gauges_copy(struct gauges *, struct spool_view *view);
