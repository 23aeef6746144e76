#pragma once

/* The brokers of upstream.url, and which one to try next. All pools share what one connection has
 * found out about a broker, so that all of them move over. */

#include <stdint.h>

#include "config/config.h"

struct target {
    const struct config_upstream *url;
    uint64_t failure; /* number of its last failure, counted over all brokers; 0: none */
};

struct targets {
    struct config_upstream *urls;
    struct target *list; /* in the order of upstream.url */
    unsigned count;      /* at least 1 */
    uint64_t failures;
};

void targets_init(struct targets *, const struct config *);
void targets_deinit(struct targets *);
/* The one that failed longest ago; before it one that has not failed; of several the first. Valid
 * until targets_deinit. */
struct target *targets_next(const struct targets *);
/* It could not be reached, or has gone: it is tried last. */
void targets_failed(struct targets *, struct target *);
