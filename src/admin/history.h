#pragma once

/* The last minutes, for the page's graphs: a sample every HISTORY_STEP_MS. */

#include <stddef.h>
#include <stdint.h>

#include "proxy/snapshot.h"

enum { HISTORY_STEP_MS = 5000, HISTORY_SAMPLES = 120 };

struct history_sample {
    uint64_t waiting, forwarded, spooled, drained, used_bytes;
};

struct history {
    struct history_sample samples[HISTORY_SAMPLES]; /* a ring */
    unsigned first, count;
};

void history_add(struct history *, const struct snapshot *);
/* JSON: {"step_ms", "waiting": [...], ...}, oldest first. The caller frees it. */
char *history_json(const struct history *, size_t *len);
