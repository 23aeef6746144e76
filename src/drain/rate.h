#pragma once

/* How fast a counter grows, as it was over the last few seconds. All zeros: not looked at yet. */

#include <stdint.h>

enum { RATE_SPAN_MS = 2000 };

struct rate {
    uint64_t since_ms, at_start; /* of the span that is being measured */
    double per_second;           /* over the last complete span; the running one before that */
};

void rate_look(struct rate *, uint64_t counter, uint64_t now_ms);
