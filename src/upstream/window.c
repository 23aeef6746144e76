#include "upstream/window.h"

#include <stdlib.h>

#include "base/assert.h"

enum { LATER_SHARE = 8 }; /* of what is left, once the first `size` are under way */

/* Where it is, or the free place where it would be. */
static uint32_t place_of(const struct window *w, uint64_t destination)
{
    uint32_t mask = w->capacity - 1, i = (uint32_t)destination & mask;
    while (w->slots[i].destination && w->slots[i].destination != destination)
        i = (i + 1) & mask;
    return i;
}

uint32_t window_share(const struct window *w, uint64_t destination)
{
    return w->under_way > 0 ? w->slots[place_of(w, destination)].under_way : 0;
}

bool window_has_room(const struct window *w, uint64_t destination, uint32_t size)
{
    uint64_t most = 2 * (uint64_t)size - 1;
    if (w->under_way < size)
        return true;
    if (w->under_way >= most)
        return false;
    uint32_t mine = window_share(w, destination);
    return mine == 0 || mine < (most - w->under_way) / LATER_SHARE;
}

static void grow(struct window *w)
{
    struct window old = *w;
    w->capacity = old.capacity ? old.capacity * 2 : 16;
    w->slots = calloc(w->capacity, sizeof *w->slots);
    ENSURE(w->slots);
    for (uint32_t i = 0; i < old.capacity; i++)
        if (old.slots[i].destination)
            w->slots[place_of(w, old.slots[i].destination)] = old.slots[i];
    free(old.slots);
}

void window_take(struct window *w, uint64_t destination, uint32_t count)
{
    ENSURE(destination);
    if (w->used >= w->capacity / 2)
        grow(w);
    struct window_slot *slot = &w->slots[place_of(w, destination)];
    if (!slot->destination) {
        slot->destination = destination;
        w->used++;
    }
    slot->under_way += count;
    w->under_way += count;
}

/* Those behind a freed place move up, or they would not be found any more. */
static void vacate(struct window *w, uint32_t hole)
{
    uint32_t mask = w->capacity - 1;
    for (uint32_t i = (hole + 1) & mask; w->slots[i].destination; i = (i + 1) & mask) {
        uint32_t home = (uint32_t)w->slots[i].destination & mask;
        if (((i - home) & mask) < ((i - hole) & mask))
            continue;
        w->slots[hole] = w->slots[i];
        hole = i;
    }
    w->slots[hole] = (struct window_slot){0};
    w->used--;
}

void window_give_back(struct window *w, uint64_t destination, uint32_t count)
{
    uint32_t i = w->capacity ? place_of(w, destination) : 0;
    ENSURE(w->capacity && w->slots[i].under_way >= count);
    w->under_way -= count;
    w->slots[i].under_way -= count;
    if (w->slots[i].under_way == 0)
        vacate(w, i);
}

void window_clear(struct window *w)
{
    free(w->slots);
    *w = (struct window){0};
}
