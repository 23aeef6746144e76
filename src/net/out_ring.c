#include "net/out_ring.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

enum {
    CAPACITY_MIN = 8,
    CAPACITY_KEPT = 64, /* when it is empty; more is left of a burst */
};

static struct span *span_at(const struct out_ring *ring, uint32_t index)
{
    return &ring->spans[(ring->first + index) & (ring->capacity - 1)];
}

static void grow(struct out_ring *ring)
{
    uint32_t capacity = ring->capacity ? ring->capacity * 2 : CAPACITY_MIN;
    struct span *spans = malloc(capacity * sizeof *spans);
    ENSURE(spans);
    for (uint32_t i = 0; i < ring->count; i++)
        spans[i] = *span_at(ring, i);
    free(ring->spans);
    ring->spans = spans;
    ring->capacity = capacity;
    ring->first = 0;
}

void out_ring_add(struct out_ring *ring, struct slab *slab, uint8_t *at, size_t len, bool may_join)
{
    ring->bytes += len;
    if (ring->count > 0 && may_join) {
        struct span *last = span_at(ring, ring->count - 1);
        if (last->slab == slab && last->at + last->len == at) {
            last->len += len;
            return;
        }
    }
    if (ring->count == ring->capacity)
        grow(ring);
    *span_at(ring, ring->count) = (struct span){slab_ref(slab), at, len};
    ring->count++;
}

unsigned out_ring_gather(const struct out_ring *ring, uv_buf_t *bufs, unsigned max, size_t *total)
{
    unsigned n = 0;
    *total = 0;
    for (; n < max && n < ring->count; n++) {
        const struct span *span = span_at(ring, n);
        bufs[n] = uv_buf_init((char *)span->at, (unsigned)span->len);
        *total += span->len;
    }
    return n;
}

size_t out_ring_front(const struct out_ring *ring, uint8_t *scratch, size_t max, const uint8_t **at)
{
    const struct span *first = span_at(ring, 0);
    *at = first->at;
    if (first->len >= max || ring->count == 1)
        return first->len < max ? first->len : max;
    size_t len = 0;
    for (uint32_t i = 0; i < ring->count && len < max; i++) {
        const struct span *span = span_at(ring, i);
        size_t room = max - len, n = span->len < room ? span->len : room;
        memcpy(scratch + len, span->at, n);
        len += n;
    }
    *at = scratch;
    return len;
}

void out_ring_sent(struct out_ring *ring, size_t len)
{
    ring->bytes -= len;
    while (len > 0) {
        struct span *span = span_at(ring, 0);
        if (len < span->len) {
            span->at += len;
            span->len -= len;
            return;
        }
        len -= span->len;
        slab_unref(span->slab);
        ring->first = (ring->first + 1) & (ring->capacity - 1);
        ring->count--;
    }
    if (ring->count == 0 && ring->capacity > CAPACITY_KEPT)
        out_ring_clear(ring);
}

size_t out_ring_share(const struct out_ring *ring)
{
    size_t share = 0;
    for (uint32_t i = 0; i < ring->count; i++)
        share += slab_share(span_at(ring, i)->slab);
    return share;
}

void out_ring_clear(struct out_ring *ring)
{
    for (uint32_t i = 0; i < ring->count; i++)
        slab_unref(span_at(ring, i)->slab);
    free(ring->spans);
    *ring = (struct out_ring){0};
}
