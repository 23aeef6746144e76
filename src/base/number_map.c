#include "base/number_map.h"

#include <stdlib.h>

#include "base/assert.h"

enum { CAPACITY_MIN = 16 };

/* Where the key is, or the free place where it would be. */
static uint32_t place_of(const struct number_map *map, uint64_t key)
{
    uint32_t mask = map->capacity - 1, i = (uint32_t)key & mask;
    while (map->slots[i].key && map->slots[i].key != key)
        i = (i + 1) & mask;
    return i;
}

uint32_t *number_map_find(const struct number_map *map, uint64_t key)
{
    if (map->used == 0)
        return NULL;
    struct number_map_slot *slot = &map->slots[place_of(map, key)];
    return slot->key ? &slot->value : NULL;
}

static void grow(struct number_map *map)
{
    struct number_map old = *map;
    map->capacity = old.capacity ? old.capacity * 2 : CAPACITY_MIN;
    map->slots = calloc(map->capacity, sizeof *map->slots);
    ENSURE(map->slots);
    for (uint32_t i = 0; i < old.capacity; i++)
        if (old.slots[i].key)
            map->slots[place_of(map, old.slots[i].key)] = old.slots[i];
    free(old.slots);
}

uint32_t *number_map_put(struct number_map *map, uint64_t key)
{
    ENSURE(key);
    if (map->used >= map->capacity / 2)
        grow(map);
    struct number_map_slot *slot = &map->slots[place_of(map, key)];
    if (!slot->key) {
        slot->key = key;
        map->used++;
    }
    return &slot->value;
}

/* Those behind the freed place move up, or they would not be found any more. */
void number_map_remove(struct number_map *map, uint64_t key)
{
    ENSURE(map->used > 0);
    uint32_t mask = map->capacity - 1, hole = place_of(map, key);
    ENSURE(map->slots[hole].key == key);
    for (uint32_t i = (hole + 1) & mask; map->slots[i].key; i = (i + 1) & mask) {
        uint32_t home = (uint32_t)map->slots[i].key & mask;
        if (((i - home) & mask) < ((i - hole) & mask))
            continue;
        map->slots[hole] = map->slots[i];
        hole = i;
    }
    map->slots[hole] = (struct number_map_slot){0};
    map->used--;
}

void number_map_clear(struct number_map *map)
{
    free(map->slots);
    *map = (struct number_map){0};
}
