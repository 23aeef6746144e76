#pragma once

/* What a stream has read and its owner has not taken yet: one run of bytes in a slab. Most of it
 * lies in a slab that all streams share, so that one that waits holds none; a large unit gets one
 * of its own. A buffer of zeros is an empty one. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slab.h"

struct in_buffer {
    struct slab *slab; /* holds the bytes; NULL if there are none */
    uint8_t *begin, *end;
    size_t expected; /* bytes from `begin` that the owner waits for; 0: it has not said */
};

static inline size_t in_buffer_len(const struct in_buffer *in)
{
    return (size_t)(in->end - in->begin);
}

/* Makes room behind the bytes, where a unit can be completed; they may move. False when memory is
 * short. `*shared` is the slab that streams share, and may become another one. */
bool in_buffer_make_room(struct in_buffer *, struct slab **shared);
/* How much room there is; make_room was just called. */
size_t in_buffer_room(const struct in_buffer *);
/* So many bytes were put there. */
void in_buffer_got(struct in_buffer *, size_t len);
/* So many at the beginning were taken. */
void in_buffer_consume(struct in_buffer *, size_t len);
/* Lets go of the slab if no bytes are there: room was made for nothing. */
void in_buffer_rest(struct in_buffer *);
void in_buffer_clear(struct in_buffer *);
