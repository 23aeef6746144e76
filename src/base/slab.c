#include "base/slab.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/test_switch.h"

enum { RECYCLED_MAX = 64 }; /* at most 16 MiB kept for the next burst */

static struct slab *recycled;
static unsigned recycled_count;
static atomic_size_t live_bytes;

/* AMQPBUF_TEST_MEMORY_MAX is how many bytes the system seems to have. */
static bool system_has(size_t bytes)
{
    return slab_live_bytes() + bytes <= test_number("AMQPBUF_TEST_MEMORY_MAX", SIZE_MAX);
}

static struct slab *begin(struct slab *slab, size_t capacity)
{
    *slab = (struct slab){.refs = 1, .capacity = capacity};
    atomic_fetch_add_explicit(&live_bytes, capacity, memory_order_relaxed);
    return slab;
}

struct slab *slab_new_on_thread(size_t capacity)
{
    if (capacity > SIZE_MAX - sizeof(struct slab) || !system_has(capacity))
        return NULL;
    struct slab *slab = malloc(sizeof *slab + capacity);
    return slab ? begin(slab, capacity) : NULL;
}

struct slab *slab_new(size_t capacity)
{
    if (capacity != SLAB_BYTES || !recycled)
        return slab_new_on_thread(capacity);
    struct slab *slab = recycled;
    recycled = slab->next_free;
    recycled_count--;
    return begin(slab, capacity);
}

struct slab *slab_with_room(struct slab **shared, size_t room)
{
    if (*shared && (*shared)->refs == 1)
        (*shared)->used = 0; /* nobody else looks at it any more */
    if (!*shared || (*shared)->capacity - (*shared)->used < room) {
        struct slab *fresh = slab_new(room > SLAB_BYTES ? room : SLAB_BYTES);
        if (!fresh)
            return NULL;
        if (*shared)
            slab_unref(*shared);
        *shared = fresh;
    }
    return *shared;
}

void slab_free(struct slab *slab)
{
    atomic_fetch_sub_explicit(&live_bytes, slab->capacity, memory_order_relaxed);
    if (slab->capacity == SLAB_BYTES && recycled_count < RECYCLED_MAX) {
        slab->next_free = recycled;
        recycled = slab;
        recycled_count++;
        return;
    }
    free(slab);
}

size_t slab_live_bytes(void)
{
    return atomic_load_explicit(&live_bytes, memory_order_relaxed);
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
