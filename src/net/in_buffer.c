#include "net/in_buffer.h"

#include <string.h>

#include "base/assert.h"

enum {
    READ_MIN_BYTES = 16 * 1024,   /* least room offered to a read */
    LARGE_UNIT_BYTES = 32 * 1024, /* a unit from here on is read into a slab of its own */
};

size_t in_buffer_room(const struct in_buffer *in)
{
    return (size_t)(in->slab->data + in->slab->capacity - in->end);
}

/* True if the unit that the owner waits for can be completed where its beginning lies. */
static bool can_grow(const struct in_buffer *in)
{
    size_t have = in_buffer_len(in);
    size_t missing = in->expected > have ? in->expected - have : 1;
    if (in_buffer_room(in) < missing)
        return false;
    /* Only while nobody has read behind us: a slab may be, or may have been, the shared one. */
    return in->end == in->slab->data + in->slab->used;
}

/* Moves the bytes to where the rest of a unit has room: its beginning, or, if the owner has left
 * them there, whole units and what follows them. */
static bool move(struct in_buffer *in, struct slab **shared)
{
    size_t have = in_buffer_len(in);
    size_t need = in->expected > have ? in->expected : have + READ_MIN_BYTES;
    struct slab *to;
    uint8_t *at;
    if (need > LARGE_UNIT_BYTES) {
        /* Room for a second unit saves moving its beginning again. */
        to = slab_new(need > SLAB_BYTES ? need : SLAB_BYTES);
        if (!to)
            return false;
        at = to->data;
        to->used = have;
    } else {
        to = slab_with_room(shared, LARGE_UNIT_BYTES + READ_MIN_BYTES);
        if (!to)
            return false;
        slab_ref(to);
        at = to->data + to->used;
        to->used += have;
    }
    memcpy(at, in->begin, have);
    in_buffer_clear(in);
    in->slab = to;
    in->begin = at;
    in->end = at + have;
    return true;
}

bool in_buffer_make_room(struct in_buffer *in, struct slab **shared)
{
    if (in->slab)
        return can_grow(in) || move(in, shared);
    struct slab *slab = slab_with_room(shared, READ_MIN_BYTES);
    if (!slab)
        return false;
    in->slab = slab_ref(slab);
    in->begin = in->end = slab->data + slab->used;
    return true;
}

void in_buffer_got(struct in_buffer *in, size_t len)
{
    in->end += len;
    in->slab->used = (size_t)(in->end - in->slab->data);
}

void in_buffer_consume(struct in_buffer *in, size_t len)
{
    ENSURE(len <= in_buffer_len(in));
    in->expected = 0;
    if (!in->slab)
        return; /* adding even 0 to NULL is undefined */
    in->begin += len;
    in_buffer_rest(in);
}

void in_buffer_rest(struct in_buffer *in)
{
    if (in->slab && in->begin == in->end)
        in_buffer_clear(in);
}

void in_buffer_clear(struct in_buffer *in)
{
    if (in->slab)
        slab_unref(in->slab);
    in->slab = NULL;
    in->begin = in->end = NULL;
}
