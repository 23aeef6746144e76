#pragma once

/* A small number for each of many large ones that are spread evenly (hashes), none of which is 0.
 * A map of zeros is an empty one. */

#include <stdint.h>

struct number_map_slot {
    uint64_t key; /* 0: free */
    uint32_t value;
};

struct number_map {
    struct number_map_slot *slots; /* open addressing, at most half full; NULL: it was never used */
    uint32_t capacity, used;
};

/* Where the value is, until the next change; NULL: there is none. */
uint32_t *number_map_find(const struct number_map *, uint64_t key);
/* The same; a value that was not there is made, and is 0. */
uint32_t *number_map_put(struct number_map *, uint64_t key);
/* It is there. */
void number_map_remove(struct number_map *, uint64_t key);
/* Takes all out, and frees. */
void number_map_clear(struct number_map *);
