#include "spool/page_set.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/memory.h"

void page_set_free(struct page_set *set)
{
    free(set->bits);
    *set = (struct page_set){0};
}

void page_set_reach(struct page_set *set, uint64_t pages)
{
    uint64_t have = (set->pages + 7) / 8, need = (pages + 7) / 8;
    if (pages <= set->pages)
        return;
    if (need > have) {
        set->bits = memory_grow(set->bits, need, 1);
        memset(set->bits + have, 0, need - have);
    }
    set->pages = pages;
}

void page_set_add(struct page_set *set, uint64_t page)
{
    ENSURE(page < set->pages);
    set->count += !page_set_has(set, page);
    set->bits[page / 8] = (uint8_t)(set->bits[page / 8] | 1U << page % 8);
}

void page_set_remove(struct page_set *set, uint64_t page)
{
    if (!page_set_has(set, page))
        return;
    set->count--;
    set->bits[page / 8] = (uint8_t)(set->bits[page / 8] & ~(1U << page % 8));
}

uint64_t page_set_run(const struct page_set *set, uint64_t page, uint64_t most)
{
    uint64_t run = 0;
    while (run < most && page_set_has(set, page + run))
        run++;
    return run;
}
