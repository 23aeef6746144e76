#pragma once

/* Numbers that a seed decides. Each part of a run has a generator of its own, so that leaving out
 * one part does not change what the others do. */

#include <stdbool.h>
#include <stdint.h>

struct prng {
    uint64_t state;
};

/* The generator number `stream` of a seed. */
struct prng prng_of(uint64_t seed, uint64_t stream);
uint64_t prng_next(struct prng *);
/* 0 <= n < limit; limit is at least 1. */
uint64_t prng_below(struct prng *, uint64_t limit);
/* least <= n <= most */
uint64_t prng_between(struct prng *, uint64_t least, uint64_t most);
/* True so many times of a hundred. */
bool prng_percent(struct prng *, unsigned percent);
