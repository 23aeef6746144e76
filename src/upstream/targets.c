#include "upstream/targets.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

enum { NEWS_MS = 60000 };

void targets_init(struct targets *targets, const struct config *config)
{
    *targets = (struct targets){0};
    targets->urls = config_upstreams(config, &targets->count);
    targets->list = calloc(targets->count, sizeof *targets->list);
    ENSURE(targets->count > 0 && targets->list);
    for (unsigned i = 0; i < targets->count; i++)
        targets->list[i].url = &targets->urls[i];
}

void targets_deinit(struct targets *targets)
{
    config_upstreams_free(targets->urls, targets->count);
    free(targets->list);
}

struct target *targets_next(const struct targets *targets)
{
    struct target *next = &targets->list[0];
    for (unsigned i = 1; i < targets->count; i++)
        if (targets->list[i].failure < next->failure)
            next = &targets->list[i];
    return next;
}

void targets_failed(struct targets *targets, struct target *target)
{
    target->failure = ++targets->failures;
}

bool targets_is_news(struct target *target, const char *why, uint64_t now_ms)
{
    bool same = strncmp(target->told, why, sizeof target->told - 1) == 0;
    if (target->told[0] && same && now_ms - target->told_ms < NEWS_MS)
        return false;
    snprintf(target->told, sizeof target->told, "%s", why);
    target->told_ms = now_ms;
    return true;
}

void targets_unanswered(struct target *target, uint64_t now_ms)
{
    target->failed_ms = now_ms ? now_ms : 1;
}

void targets_answered(struct target *target)
{
    target->told[0] = 0;
    target->failed_ms = 0;
}

bool targets_are_away(const struct targets *targets, uint64_t now_ms, uint64_t within_ms)
{
    for (unsigned i = 0; i < targets->count; i++) {
        uint64_t failed_ms = targets->list[i].failed_ms;
        if (failed_ms == 0 || now_ms - failed_ms >= within_ms)
            return false;
    }
    return true;
}
