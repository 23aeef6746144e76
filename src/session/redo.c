#include "session/redo.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

struct redo {
    struct redo_call *calls; /* in the order in which they were sent */
    uint32_t count;
    uint64_t failures;
};

void redo_add(struct redo **list, amqp_method_number_t method, struct span *payload,
              uint64_t failures)
{
    struct redo *redo = *list;
    if (!redo) {
        redo = *list = memory_grow(NULL, 1, sizeof *redo);
        *redo = (struct redo){.failures = failures};
    }
    redo->calls = memory_grow(redo->calls, redo->count + 1, sizeof *redo->calls);
    redo->calls[redo->count++] = (struct redo_call){method, *payload};
    *payload = (struct span){0};
}

const struct redo_call *redo_first(const struct redo *redo)
{
    return &redo->calls[0];
}

uint64_t redo_failures(const struct redo *redo)
{
    return redo->failures;
}

void redo_drop_first(struct redo **list)
{
    struct redo *redo = *list;
    span_clear(&redo->calls[0].payload);
    memmove(redo->calls, redo->calls + 1, --redo->count * sizeof *redo->calls);
    if (redo->count == 0)
        redo_drop(list);
}

void redo_drop(struct redo **list)
{
    struct redo *redo = *list;
    if (!redo)
        return;
    *list = NULL;
    for (uint32_t i = 0; i < redo->count; i++)
        span_clear(&redo->calls[i].payload);
    free(redo->calls);
    free(redo);
}
