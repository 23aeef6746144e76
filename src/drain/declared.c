#include "drain/declared.h"

#include <stdlib.h>

#include <xxhash.h>

#include "base/assert.h"

enum { CAPACITY_MIN = 16 };

uint64_t declared_hash(const uint8_t *method, size_t len)
{
    uint64_t hash = XXH3_64bits(method, len);
    return hash ? hash : 1;
}

/* Where it is, or the free place where it would be. */
static uint32_t place_of(const struct declared *d, uint64_t hash)
{
    uint32_t mask = d->capacity - 1, i = (uint32_t)hash & mask;
    while (d->hashes[i] && d->hashes[i] != hash)
        i = (i + 1) & mask;
    return i;
}

bool declared_has(const struct declared *d, uint64_t hash)
{
    return d->capacity > 0 && d->hashes[place_of(d, hash)] == hash;
}

static void grow(struct declared *d)
{
    struct declared old = *d;
    d->capacity = old.capacity ? old.capacity * 2 : CAPACITY_MIN;
    d->hashes = calloc(d->capacity, sizeof *d->hashes);
    ENSURE(d->hashes);
    for (uint32_t i = 0; i < old.capacity; i++)
        if (old.hashes[i])
            d->hashes[place_of(d, old.hashes[i])] = old.hashes[i];
    free(old.hashes);
}

void declared_add(struct declared *d, uint64_t hash)
{
    ENSURE(hash);
    if (declared_has(d, hash))
        return;
    if (d->count + 1 > d->capacity / 2)
        grow(d);
    d->hashes[place_of(d, hash)] = hash;
    d->count++;
}

void declared_remove(struct declared *d, uint64_t hash)
{
    if (!declared_has(d, hash))
        return;
    uint32_t mask = d->capacity - 1, free_at = place_of(d, hash);
    d->hashes[free_at] = 0;
    d->count--;
    /* What stands behind it was put there because of it, perhaps. */
    for (uint32_t i = (free_at + 1) & mask; d->hashes[i]; i = (i + 1) & mask) {
        uint64_t moved = d->hashes[i];
        d->hashes[i] = 0;
        d->hashes[place_of(d, moved)] = moved;
    }
    if (d->count == 0)
        declared_clear(d);
}

void declared_clear(struct declared *d)
{
    free(d->hashes);
    *d = (struct declared){0};
}
