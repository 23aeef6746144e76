#pragma once

/* The brokers of upstream.url, and which one to try next. All pools share what one connection has
 * found out about a broker, so that all of them move over. */

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"

struct target {
    const struct config_upstream *url;
    uint64_t failure; /* number of its last failure, counted over all brokers; 0: none */
    char told[256];   /* what the log has last said of it; empty: nothing since it was well */
    uint64_t told_ms;
    uint64_t failed_ms; /* a dial has failed, and none was answered since; 0: no */
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
/* True if the log has not said this of it within the last minute: while RabbitMQ is away every
 * login tries it again and again. */
bool targets_is_news(struct target *, const char *why, uint64_t now_ms);
/* A dial was not answered. */
void targets_unanswered(struct target *, uint64_t now_ms);
/* It has answered: the next failure is news. */
void targets_answered(struct target *);
/* True if none of them has answered since a dial failed, each within the last `within_ms`. */
bool targets_are_away(const struct targets *, uint64_t now_ms, uint64_t within_ms);
