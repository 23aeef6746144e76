#pragma once

/* What list and dump share: scan what the filter of the command line lets through, with progress,
 * and with --follow what comes after it; and turn the outcome into an exit status. */

#include "scan.h"

struct selection {
    const char *verb; /* "Listed" */
    unsigned flags;   /* of reader_records */
    bool (*each)(struct scan *, void *arg, const struct item *);
    void (*pause)(void *arg); /* before it waits for more; NULL: nothing to do */
    void *arg;
    uint64_t visited; /* how many there were */
};

enum inspect_exit select_run(struct inspect *, struct selection *);
