#include "base/handles.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/memory.h"

struct slot {
    void *object;
    uint32_t generation;
    uint32_t next_free; /* index + 1; 0 ends the list */
};

static struct slot *slots;
static uint32_t slots_used, slots_capacity, slots_live;
static uint32_t first_free;

static struct slot *slot_of(uint64_t id)
{
    uint32_t index = (uint32_t)id;
    if (index == 0 || index > slots_used)
        return NULL;
    struct slot *slot = &slots[index - 1];
    return slot->object && slot->generation == (uint32_t)(id >> 32) ? slot : NULL;
}

uint64_t handles_add(void *object)
{
    ENSURE(object);
    if (!first_free) {
        if (slots_used == slots_capacity) {
            slots_capacity = slots_capacity ? slots_capacity * 2 : 64;
            slots = memory_grow(slots, slots_capacity, sizeof *slots);
        }
        slots[slots_used] = (struct slot){0};
        first_free = ++slots_used;
    }
    uint32_t index = first_free;
    struct slot *slot = &slots[index - 1];
    first_free = slot->next_free;
    slot->object = object;
    slot->generation++;
    slots_live++;
    return (uint64_t)slot->generation << 32 | index;
}

void *handles_get(uint64_t id)
{
    struct slot *slot = slot_of(id);
    return slot ? slot->object : NULL;
}

void handles_remove(uint64_t id)
{
    struct slot *slot = slot_of(id);
    ENSURE(slot);
    slot->object = NULL;
    slot->next_free = first_free;
    first_free = (uint32_t)id;
    slots_live--;
}

void handles_deinit(void)
{
    ENSURE(slots_live == 0);
    free(slots);
    slots = NULL;
    slots_used = slots_capacity = first_free = 0;
}
