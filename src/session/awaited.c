#include "session/awaited.h"

#include <stdlib.h>

#include "base/assert.h"
#include "session/transaction.h"

void calls_deinit(struct calls *calls)
{
    while (calls->count > 0)
        calls_end_oldest(calls);
    free(calls->ring);
    *calls = (struct calls){0};
}

static void grow(struct calls *calls)
{
    uint32_t capacity = calls->capacity ? calls->capacity * 2 : 2;
    struct awaited *ring = malloc(capacity * sizeof *ring);
    ENSURE(ring);
    for (uint32_t i = 0; i < calls->count; i++)
        ring[i] = *calls_at(calls, i);
    free(calls->ring);
    calls->ring = ring;
    calls->capacity = capacity;
    calls->first = 0;
}

struct awaited *calls_add(struct calls *calls, amqp_method_number_t method, uint64_t stamp)
{
    if (calls->count == calls->capacity)
        grow(calls);
    struct awaited *call = calls_at(calls, calls->count++);
    *call = (struct awaited){.stamp = stamp, .method = method};
    return call;
}

void calls_keep(struct calls *calls, struct span payload)
{
    ENSURE(calls->count > 0);
    calls_at(calls, calls->count - 1)->payload = payload;
    calls->bytes += (uint32_t)payload.len;
}

bool calls_end_oldest(struct calls *calls)
{
    ENSURE(calls->count > 0);
    struct awaited *oldest = calls_at(calls, 0);
    bool client_waits = (oldest->payload.slab && !oldest->nowait) || oldest->is_half;
    calls->bytes -= (uint32_t)oldest->payload.len;
    span_clear(&oldest->payload);
    if (oldest->tx)
        transaction_free(oldest->tx);
    calls->first = (calls->first + 1) & (calls->capacity - 1);
    calls->count--;
    return client_waits;
}
