#pragma once

/* The records that came since the end of the queue was read, as frames: they need not be read back
 * from the spool. It holds all of them, or nothing: what it has no room for, or may not keep, is
 * read, and it begins again when the end has been read once more. */

#include <stdbool.h>
#include <stdint.h>

#include "spooler/job.h"

struct newest {
    bool is_whole;  /* it holds all that came since */
    uint64_t after; /* sequence number of the last record that was read, or is in here */
    struct slab *slab;
    struct job_record *records; /* in sequence order, those from `first` on */
    uint32_t first, count, capacity;
};

/* The queue has been read to its end, which was this record. */
void newest_begin(struct newest *, uint64_t last);
/* Something has come that is not in here, or is to be read again. */
void newest_forget(struct newest *);
/* An append was committed. What was read already is no news: a read sees what is committed before
 * its publisher hears of it. False, and all is forgotten, if it cannot be kept: more than an
 * ordinary slab holds, or a message whose time to live goes on while it waits. Only while it is
 * whole. */
bool newest_add(struct newest *, const struct framing *, const struct job *append);
/* At most `max` of its records, the oldest first, and a reference to the slab in which they lie;
 * both are the caller's. Their number is less than `max` only if nothing is left. */
uint32_t newest_take(struct newest *, uint32_t max, struct job_record **records,
                     struct slab **slab);
