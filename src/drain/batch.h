#pragma once

/* What a drain has read and not sent yet: no place is free, or a declaration's answer is due. */

#include <stdint.h>

#include "spooler/job.h"

struct batch {
    struct job_record *records; /* in sequence order; NULL: there is none */
    struct slab *slab;          /* where their frames lie */
    uint32_t count, next;       /* those from `next` on are to be sent */
    uint64_t reached;           /* by all of it: sequence number of the last record looked at */
    uint64_t only;              /* it is of this destination, which is aside; 0: of all others */
    uint64_t scanned;           /* it has all of `only` up to here; 0: not known */
};

/* Takes over the records of a JOB_READ. It must be empty. */
void batch_take(struct batch *, struct job *read);
/* Lets go of all. */
void batch_drop(struct batch *);
/* The same if it is of this destination alone, an older record of which is to be sent first. */
void batch_drop_of(struct batch *, uint64_t destination);
