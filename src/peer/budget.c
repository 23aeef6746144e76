#include "peer/budget.h"

#include "base/log.h"
#include "base/slab.h"
#include "net/tls.h"
#include "peer/runtime.h"

uint64_t budget_used(const struct budget *budget)
{
    return slab_live_bytes() + tls_held_bytes(NULL) + budget->kept;
}

bool budget_is_short(struct runtime *rt)
{
    struct budget *budget = &rt->budget;
    if (!budget->is_short && budget_used(budget) >= rt->config->listen.max_memory_bytes) {
        budget->is_short = true;
        LOG_OFTEN(LOG_WARN, "memory_short", LOG_N("bytes", budget_used(budget)),
                  LOG_N("clients", rt->counters.clients));
    }
    return budget->is_short;
}

bool budget_recovers(struct runtime *rt)
{
    uint64_t limit = rt->config->listen.max_memory_bytes;
    if (!rt->budget.is_short || budget_used(&rt->budget) > limit - limit / 8)
        return false;
    rt->budget.is_short = false;
    return true;
}
