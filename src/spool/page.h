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
