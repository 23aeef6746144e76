#pragma once

/* Finds objects by the hash of what they are called, however many there are. An object is in an
 * index by a node that is part of it, and may be in several. Different names can have one hash: who
 * has found an object compares. An index of zeros is an empty one. */

#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

struct index_node {
    struct list node; /* in a bucket */
    uint64_t hash;
    void *owner;
};

struct index {
    struct list *buckets;
    size_t bucket_count, count; /* of nodes */
};

/* Of one name, or of two: index_hash(b, index_hash(a, 0)). */
uint64_t index_hash(const char *text, uint64_t seed);

void index_add(struct index *, struct index_node *, uint64_t hash, void *owner);
void index_remove(struct index *, struct index_node *);
/* The first of that hash, or NULL; and the next one of the same. */
struct index_node *index_find(const struct index *, uint64_t hash);
struct index_node *index_next(const struct index *, const struct index_node *);
/* Of an empty one. */
void index_deinit(struct index *);
