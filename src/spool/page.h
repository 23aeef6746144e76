#pragma once

/* LMDB's pages as they lie in the map (version 0.9: mdb.c, MDB_page and MDB_node). LMDB checks
 * nothing of a page that it writes to, and hands out pointers that a damaged page has made up. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lmdb.h>

struct page_map {
    uintptr_t begin, end; /* of what of the map has been used */
    size_t page_bytes;
};

/* Finds the map by a page that holds `key`. Guarded. MDB_CORRUPTED if there is no such page. */
int page_map_find(MDB_txn *, struct page_map *);
/* True if these bytes are in it. */
bool page_map_has(const struct page_map *, const MDB_val *);
/* True if the value is in it, and if it has pages of its own, these are such pages. */
bool page_map_has_value(const struct page_map *, const MDB_val *key, const MDB_val *value);
/* The page that a byte of it is on. */
uintptr_t page_of(const struct page_map *, const MDB_val *key);
/* True if the leaf that holds this key is one that LMDB can write to. */
bool page_is_sound(const struct page_map *, const MDB_val *key);

/* ---- a page in memory, wherever it is from ---- */

enum { PAGE_HEAD_BYTES = 16, PAGE_META_BYTES = 152 };

/* True if the first PAGE_META_BYTES are those of page `number`, 0 or 1, which says where the tree
 * of this transaction begins. LMDB's commits write them in turn. */
bool page_is_meta(const uint8_t *page, uint64_t number, uint64_t *transaction);

/* True if it looks like a leaf. */
bool page_is_leaf(const uint8_t *page, size_t page_bytes);
/* True if it is page `number`, and a leaf that LMDB can write to. */
bool page_is_sound_leaf(const uint8_t *page, uint64_t number, size_t page_bytes);
/* True if it is page `number`, and a branch that LMDB can write to. */
bool page_is_branch(const uint8_t *page, uint64_t number, size_t page_bytes);
/* How many a leaf or a branch holds. */
size_t page_node_count(const uint8_t *page);
struct page_node {
    MDB_val key;         /* in the page */
    const uint8_t *data; /* NULL: they are on pages of their own, behind the head of the first */
    uint32_t data_len;
    uint64_t first_page;
};
/* The `at`th of them; false if it does not lie in the page. */
bool page_node(const uint8_t *leaf, size_t page_bytes, size_t at, struct page_node *);
struct page_child {
    MDB_val key;     /* the lowest below it; of the first one it may be anything */
    uint64_t number; /* of the page */
};
bool page_child(const uint8_t *branch, size_t page_bytes, size_t at, struct page_child *);
/* True if it is page `number`, and the first of those that hold a value of this length. */
bool page_is_first_of(const uint8_t *page, uint64_t number, uint64_t data_len, size_t page_bytes);
