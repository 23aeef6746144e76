#include "base/slab.h"

#include <stdlib.h>

enum { RECYCLED_MAX = 64 }; /* at most 16 MiB kept for the next burst */

static struct slab *recycled;
static unsigned recycled_count;

struct slab *slab_new(size_t capacity)
{
    if (capacity < SLAB_BYTES)
        capacity = SLAB_BYTES;
    struct slab *slab = NULL;
    if (capacity == SLAB_BYTES && recycled) {
        slab = recycled;
        recycled = slab->next_free;
        recycled_count--;
    } else {
        if (capacity > SIZE_MAX - sizeof *slab)
            return NULL;
        slab = malloc(sizeof *slab + capacity);
        if (!slab)
            return NULL;
    }
    slab->refs = 1;
    slab->capacity = capacity;
    slab->used = 0;
    slab->next_free = NULL;
    return slab;
}

void slab_free(struct slab *slab)
{
    if (slab->capacity == SLAB_BYTES && recycled_count < RECYCLED_MAX) {
        slab->next_free = recycled;
        recycled = slab;
        recycled_count++;
        return;
    }
    free(slab);
}

void slab_trim(void)
{
    while (recycled) {
        struct slab *slab = recycled;
        recycled = slab->next_free;
        free(slab);
    }
    recycled_count = 0;
}
