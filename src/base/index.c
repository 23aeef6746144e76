#include "base/index.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "base/assert.h"
#include "base/memory.h"

enum { BUCKETS_MIN = 16 };

uint64_t index_hash(const char *text, uint64_t seed)
{
    return XXH3_64bits_withSeed(text, strlen(text), seed);
}

static struct list *bucket_of(const struct index *index, uint64_t hash)
{
    return &index->buckets[hash & (index->bucket_count - 1)];
}

/* As many buckets as nodes, at least: a bucket has one node, mostly. */
static void grow(struct index *index)
{
    struct list *old = index->buckets, *node;
    size_t old_count = index->bucket_count;
    index->bucket_count = old_count ? 2 * old_count : BUCKETS_MIN;
    index->buckets = memory_grow(NULL, index->bucket_count, sizeof *index->buckets);
    for (size_t i = 0; i < index->bucket_count; i++)
        list_init(&index->buckets[i]);
    for (size_t i = 0; i < old_count; i++)
        while ((node = list_first(&old[i])) != NULL) {
            list_remove(node);
            list_append(bucket_of(index, LIST_ENTRY(node, struct index_node, node)->hash), node);
        }
    free(old);
}

void index_add(struct index *index, struct index_node *node, uint64_t hash, void *owner)
{
    if (index->count == index->bucket_count)
        grow(index);
    index->count++;
    node->hash = hash;
    node->owner = owner;
    list_append(bucket_of(index, hash), &node->node);
}

void index_remove(struct index *index, struct index_node *node)
{
    ENSURE(index->count > 0);
    index->count--;
    list_remove(&node->node);
}

static struct index_node *find_from(const struct list *bucket, struct list *from, uint64_t hash)
{
    for (struct list *n = from; n != bucket; n = n->next)
        if (LIST_ENTRY(n, struct index_node, node)->hash == hash)
            return LIST_ENTRY(n, struct index_node, node);
    return NULL;
}

struct index_node *index_find(const struct index *index, uint64_t hash)
{
    if (index->count == 0)
        return NULL;
    const struct list *bucket = bucket_of(index, hash);
    return find_from(bucket, bucket->next, hash);
}

struct index_node *index_next(const struct index *index, const struct index_node *node)
{
    return find_from(bucket_of(index, node->hash), node->node.next, node->hash);
}

void index_deinit(struct index *index)
{
    ENSURE(index->count == 0);
    free(index->buckets);
    *index = (struct index){0};
}
