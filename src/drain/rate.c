#include "drain/rate.h"

#include <stdbool.h>

void rate_look(struct rate *r, uint64_t counter, uint64_t now_ms)
{
    if (r->since_ms == 0) {
        *r = (struct rate){.since_ms = now_ms, .at_start = counter};
        return;
    }
    uint64_t passed_ms = now_ms - r->since_ms;
    bool complete = passed_ms >= RATE_SPAN_MS;
    if (passed_ms == 0 || (!complete && r->per_second > 0))
        return;
    r->per_second = (double)(counter - r->at_start) * 1000 / (double)passed_ms;
    if (complete) {
        r->since_ms = now_ms;
        r->at_start = counter;
    }
}
