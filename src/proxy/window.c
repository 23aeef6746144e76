#include "proxy/window.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "amqp/method.h"
#include "base/assert.h"

enum { LATER_SHARE = 8 }; /* of what is left, once the first `size` are under way */

uint64_t destination_of(const uint8_t *method, size_t len)
{
    struct publish publish;
    if (!publish_parse(method, len, &publish))
        return 1;
    /* Seeded with the length, so that no two names run into each other. */
    uint64_t seed =
        XXH3_64bits_withSeed(publish.exchange, publish.exchange_len, publish.exchange_len);
    uint64_t hash = XXH3_64bits_withSeed(publish.routing_key, publish.routing_key_len, seed);
    return hash ? hash : 1;
}

/* Where it is, or the free place where it would be. */
static uint32_t place_of(const struct window *w, uint64_t destination)
{
    uint32_t mask = w->capacity - 1, i = (uint32_t)destination & mask;
    while (w->shares[i].destination && w->shares[i].destination != destination)
        i = (i + 1) & mask;
    return i;
}

bool window_has_room(const struct window *w, uint64_t destination, uint32_t size)
{
    if (w->under_way == 0)
        return true;
    uint64_t most = 2 * (uint64_t)size - 1;
    if (w->under_way >= most)
        return false;
    uint32_t mine = w->shares[place_of(w, destination)].under_way;
    return mine == 0 || w->under_way < size || mine < (most - w->under_way) / LATER_SHARE;
}

static void grow(struct window *w)
{
    struct window old = *w;
    w->capacity = old.capacity ? old.capacity * 2 : 16;
    w->shares = calloc(w->capacity, sizeof *w->shares);
    ENSURE(w->shares);
    for (uint32_t i = 0; i < old.capacity; i++)
        if (old.shares[i].destination)
            w->shares[place_of(w, old.shares[i].destination)] = old.shares[i];
    free(old.shares);
}

void window_take(struct window *w, uint64_t destination)
{
    ENSURE(destination);
    if (w->used >= w->capacity / 2)
        grow(w);
    struct window_share *share = &w->shares[place_of(w, destination)];
    if (!share->destination) {
        share->destination = destination;
        w->used++;
    }
    share->under_way++;
    w->under_way++;
}

/* Those behind a freed place move up, or they would not be found any more. */
static void vacate(struct window *w, uint32_t hole)
{
    uint32_t mask = w->capacity - 1;
    for (uint32_t i = (hole + 1) & mask; w->shares[i].destination; i = (i + 1) & mask) {
        uint32_t home = (uint32_t)w->shares[i].destination & mask;
        if (((i - home) & mask) < ((i - hole) & mask))
            continue;
        w->shares[hole] = w->shares[i];
        hole = i;
    }
    w->shares[hole] = (struct window_share){0};
    w->used--;
}

void window_give_back(struct window *w, uint64_t destination)
{
    uint32_t i = w->capacity ? place_of(w, destination) : 0;
    ENSURE(w->capacity && w->shares[i].under_way > 0);
    w->under_way--;
    if (--w->shares[i].under_way == 0)
        vacate(w, i);
}

void window_clear(struct window *w)
{
    free(w->shares);
    *w = (struct window){0};
}
