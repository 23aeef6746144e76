#pragma once

/* A set of pages of data.mdb, a bit each. All zeros is the empty set. */

#include <stdbool.h>
#include <stdint.h>

struct page_set {
    uint8_t *bits;
    uint64_t pages; /* the set has bits for so many */
    uint64_t count; /* that are in it */
};

void page_set_free(struct page_set *);
/* Makes bits for pages 0 to `pages` - 1, if there are fewer. */
void page_set_reach(struct page_set *, uint64_t pages);
static inline bool page_set_has(const struct page_set *set, uint64_t page)
{
    return page < set->pages && set->bits[page / 8] & 1U << page % 8;
}
/* The page must be one that it has a bit for. */
void page_set_add(struct page_set *, uint64_t page);
void page_set_remove(struct page_set *, uint64_t page);
/* How many pages from `page` on, one behind the other, are in the set; no more than `most`. */
uint64_t page_set_run(const struct page_set *, uint64_t page, uint64_t most);
