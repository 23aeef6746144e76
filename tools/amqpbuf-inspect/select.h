#pragma once

/* What list and dump share: visit what the filter of the command line lets through, with progress,
 * and turn the outcome into an exit status. */

#include "walk.h"

enum inspect_exit select_run(struct inspect *, const char *verb, unsigned flags,
                             bool (*visit)(struct walk *, void *arg, const struct item *),
                             void *arg, uint64_t *visited);
