#pragma once

/* How many records may go now, where only so many a second may (drain.rate). In any span of time it
 * gives what the rate gives in that span, and what it had saved before: one second's at most. All
 * zeros: nothing is allowed yet. */

#include <stdint.h>

struct allowance {
    uint64_t refilled_ms; /* 0: never */
    uint64_t thousandths; /* of a record: no rate is too small for the time between two refills */
};

/* Adds what `per_second` gives for the time since the last refill. */
void allowance_refill(struct allowance *, uint32_t per_second, uint64_t now_ms);
/* Whole records. */
uint32_t allowance_left(const struct allowance *);
void allowance_spend(struct allowance *, uint32_t records);
