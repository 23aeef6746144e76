#pragma once

/* Goes through the queues and records of the spool, one at a time, and keeps none of them. */

#include <stdbool.h>
#include <stdint.h>

#include "inspect.h"
#include "json/routing.h"

/* A queue as reader_queues shows it, with strings of its own. */
struct shown_queue {
    struct reader_queue seen;
    char *user, *vhost; /* what seen.user and seen.vhost point to */
};

struct queue_list {
    struct shown_queue *queues; /* by id */
    size_t count;
};

/* The queues that the filter lets through. On an error says so on standard error; the list is
 * empty then. */
bool queues_read(struct inspect *, const struct filter *, struct queue_list *);
void queues_free(struct queue_list *);

struct item {
    const struct shown_queue *queue;
    const struct reader_record *record;
    const struct routing *routing;
};

struct scan {
    struct inspect *inspect;
    const struct filter *filter;
    unsigned flags; /* of reader_records, but READER_REJECTED */
    /* Returns false to stop. Calls scan_damage for what it cannot use. */
    bool (*each)(struct scan *, void *arg, const struct item *);
    /* NULL: damage is told on standard error. */
    void (*damaged)(void *arg, uint32_t queue, uint64_t seq, const char *what);
    void *arg;
    uint64_t visited, damage; /* counted by the scan */
    uint64_t reached;         /* the last sequence number of the queue that was gone through */
    bool ended;               /* each said so, the limit is reached, or nobody listens */
};

/* Visits every waiting or rejected record of a queue that the filter lets through, with a sequence
 * number above `after`. False if the spool could not be read to the end, which was said on standard
 * error. */
bool scan_queue(struct scan *, const struct shown_queue *, bool rejected, uint64_t after);

void scan_damage(struct scan *, uint32_t queue, uint64_t seq, const char *what);
