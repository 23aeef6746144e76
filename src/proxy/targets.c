#include "proxy/targets.h"

#include <stdlib.h>

#include "base/assert.h"

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
