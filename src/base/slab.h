#pragma once

/* Reference-counted byte slabs, and spans into them.
 *
 * What is read from a socket lands in a slab: a message is spans that hold the slab until RabbitMQ
 * has confirmed it or the spool has committed it. Counting is not atomic: the loop thread alone
 * takes and drops references; other threads may read bytes while the loop thread holds a reference
 * for them. */

#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"

enum { SLAB_BYTES = 256 * 1024 }; /* capacity of an ordinary slab; these are recycled */

struct slab {
    uint32_t refs;
    size_t capacity;
    size_t used; /* bytes handed out so far, from the front */
    struct slab *next_free;
    uint8_t data[];
};

/* A slab of `capacity` bytes with one reference, or NULL when memory is short. */
struct slab *slab_new(size_t capacity);
/* The same, on any thread; to be dropped by the loop thread. */
struct slab *slab_new_on_thread(size_t capacity);
/* A slab that several fill from the front, with at least `room` bytes left: replaces the one in
 * *shared (NULL: none yet) if it has less. NULL when memory is short. */
struct slab *slab_with_room(struct slab **shared, size_t room);
/* Bytes of all slabs that somebody holds. */
size_t slab_live_bytes(void);
void slab_free(struct slab *); /* only for slab_unref */

/* Gives recycled slabs back to the C library (at exit, so that leak checkers see none). */
void slab_trim(void);

static inline struct slab *slab_ref(struct slab *slab)
{
    slab->refs++;
    return slab;
}

static inline void slab_unref(struct slab *slab)
{
    ENSURE(slab->refs > 0);
    if (--slab->refs == 0)
        slab_free(slab);
}

/* The part of a slab that one reference stands for: the parts of all references are the slab. */
static inline size_t slab_share(const struct slab *slab)
{
    return slab ? slab->capacity / slab->refs : 0;
}

/* A run of bytes in a slab. It owns one reference to the slab unless slab is NULL. */
struct span {
    struct slab *slab;
    uint8_t *at;
    size_t len;
};

static inline struct span span_of(struct slab *slab, uint8_t *at, size_t len)
{
    ENSURE(at >= slab->data && len <= slab->capacity - (size_t)(at - slab->data));
    return (struct span){.slab = slab_ref(slab), .at = at, .len = len};
}

static inline void span_clear(struct span *span)
{
    if (span->slab)
        slab_unref(span->slab);
    *span = (struct span){0};
}
