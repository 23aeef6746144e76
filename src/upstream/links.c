#include "upstream/links.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/memory.h"

void links_init(struct links *links)
{
    *links = (struct links){0};
    list_init(&links->idle);
}

void links_deinit(struct links *links)
{
    ENSURE(links->count == 0);
    free(links->by_number);
}

bool links_have_room(const struct links *links, bool leaves_one)
{
    bool keep = leaves_one && links->taking_all == 0 && links->max > 1;
    return links->count + keep < links->max;
}

struct link *links_find(const struct links *links, uint16_t number)
{
    return number < links->capacity ? links->by_number[number] : NULL;
}

static uint16_t free_number(const struct links *links)
{
    uint32_t number = 1;
    while (links_find(links, (uint16_t)number))
        number++;
    return (uint16_t)number;
}

static void grow(struct links *links)
{
    uint32_t capacity = links->capacity ? links->capacity * 2 : 16;
    links->by_number = memory_grow(links->by_number, capacity, sizeof *links->by_number);
    memset(links->by_number + links->capacity, 0,
           (capacity - links->capacity) * sizeof *links->by_number);
    links->capacity = capacity;
}

bool links_add(struct links *links, struct link *link)
{
    if (!links_have_room(links, link->leaves_one))
        return false;
    link->channel = free_number(links);
    if (link->channel >= links->capacity)
        grow(links);
    links->by_number[link->channel] = link;
    links->count++;
    links->taking_all += !link->leaves_one;
    list_init(&link->idle_node);
    return true;
}

static void leave_idle(struct links *links, struct link *link)
{
    list_remove(&link->idle_node);
    links->idle_count--;
}

void links_remove(struct links *links, struct link *link)
{
    ENSURE(links_find(links, link->channel) == link);
    if (link_is_idle(link))
        leave_idle(links, link);
    links->by_number[link->channel] = NULL;
    links->count--;
    links->taking_all -= !link->leaves_one;
}

void links_hand_over(struct links *links, struct link *from, struct link *to)
{
    ENSURE(links_find(links, from->channel) == from && !link_is_idle(from));
    to->channel = from->channel;
    to->leaves_one = from->leaves_one;
    list_init(&to->idle_node);
    links->by_number[to->channel] = to;
}

struct link *links_next(const struct links *links, uint32_t *at)
{
    while (*at < links->capacity) {
        struct link *link = links->by_number[(*at)++];
        if (link)
            return link;
    }
    return NULL;
}

void links_keep_idle(struct links *links, struct link *link)
{
    ENSURE(!link_is_idle(link));
    list_append(&links->idle, &link->idle_node);
    links->idle_count++;
}

bool link_is_idle(const struct link *link)
{
    return !list_empty(&link->idle_node);
}

struct link *links_take_idle(struct links *links)
{
    struct list *node = list_first(&links->idle);
    if (!node)
        return NULL;
    struct link *link = LIST_ENTRY(node, struct link, idle_node);
    leave_idle(links, link);
    return link;
}

bool links_are_idle(const struct links *links)
{
    return links->idle_count == links->count;
}
