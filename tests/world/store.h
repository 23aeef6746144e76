#pragma once

/* spool/store.h in memory, for the tests of the spool's thread. What fails does so as often as it
 * is told here. Used by one thread at a time. */

#include <stdbool.h>

#include "amqpbuf/status.h"

struct fake_store {
    unsigned fail_appends, fail_commits, fail_syncs; /* the next so many; 0: none */
    enum status failure;                             /* what they report */
    unsigned skip; /* so many appends go well before the first fails */
    bool has_room;
    bool lock_is_gone;     /* until it is opened again */
    const char *misplaced; /* why nothing is appended */
    unsigned damaged;      /* sequence number of a record that cannot be read; 0: none */
    unsigned opened, commits, aborts, syncs, probes;
    unsigned bodies; /* that were handed to who reads */
};
extern struct fake_store fake_store;

void fake_store_reset(void);
