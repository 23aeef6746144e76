#pragma once

/* Tries that get rarer: each waits twice as long as the one before, up to a limit. All zeros: none
 * has failed. */

#include <stdbool.h>
#include <stdint.h>

struct backoff {
    uint64_t wait_ms; /* before the next one, as of the last failure; 0: none has failed */
    uint64_t until_ms;
};

/* One more has failed: the next one waits for that long. */
uint64_t backoff_failed(struct backoff *, uint64_t now_ms, uint64_t least_ms, uint64_t most_ms);
/* The next one may be made. */
bool backoff_is_over(const struct backoff *, uint64_t now_ms);
void backoff_reset(struct backoff *);
/* Between 75 % and 125 % of it, but not above the limit, so that many proxies do not come back in
 * step. `random` is any number. */
uint64_t backoff_jittered(uint64_t wait_ms, uint64_t most_ms, uint64_t random);
