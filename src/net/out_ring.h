#pragma once

/* What a stream has to send and its socket has not taken yet: runs of bytes in slabs, in their
 * order. A ring of zeros is an empty one. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "base/slab.h"

struct out_ring {
    struct span *spans;
    uint32_t capacity, first, count; /* a power of two, or 0 */
    size_t bytes;                    /* of all of them */
};

/* Puts these bytes, not none, at the end. If they may join what they follow in their slab, they are
 * one with it; not while somebody has been given that by its length. */
void out_ring_add(struct out_ring *, struct slab *, uint8_t *at, size_t len, bool may_join);
/* Up to `max` runs from the front, and how many bytes they have together. */
unsigned out_ring_gather(const struct out_ring *, uv_buf_t *bufs, unsigned max, size_t *total);
/* Up to `max` bytes from the front in one piece: where they lie, or `scratch`, which has room for
 * that many. There are some. */
size_t out_ring_front(const struct out_ring *, uint8_t *scratch, size_t max, const uint8_t **at);
/* So many bytes at the front were sent. */
void out_ring_sent(struct out_ring *, size_t len);
/* Its part in the slabs that it holds. */
size_t out_ring_share(const struct out_ring *);
/* Drops all, and frees. */
void out_ring_clear(struct out_ring *);
