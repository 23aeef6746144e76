#include "spool/page.h"

#include <string.h>

#include "spool/guard.h"

enum {
    AT_NUMBER = 0,
    AT_FLAGS = 10,
    AT_LOWER = 12,       /* end of the offsets of the nodes, which begin behind the head */
    AT_UPPER = 14,       /* begin of the nodes */
    NODE_HEAD_BYTES = 8, /* length of the data (4), flags (2), length of the key (2) */
    AT_NODE_FLAGS = 4,
    AT_NODE_KEY = 6,
    AT_PAGES = 12, /* of values that have pages of their own: how many */
    FLAG_BRANCH = 1,
    FLAG_LEAF = 2,
    FLAG_OVERFLOW = 4,
    FLAG_META = 8,
    AT_META_MAGIC = 16, /* MDB_meta, behind the head */
    AT_META_TXNID = 144,
    NODE_BIG = 1, /* its data are on pages of their own, and it holds the number of the first */
};

static uint16_t get16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t get64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint32_t get32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static bool has_nodes(const uint8_t *page, size_t page_bytes)
{
    size_t lower = get16(page + AT_LOWER), upper = get16(page + AT_UPPER);
    return lower > PAGE_HEAD_BYTES && lower % 2 == 0 && lower <= upper && upper <= page_bytes;
}

/* Nodes lie one behind the other from the end of the page down to `upper`, at even offsets: LMDB
 * closes each gap. Those of a branch have no data. */
static bool nodes_fill(const uint8_t *page, size_t page_bytes)
{
    size_t used = 0;
    bool is_branch = get16(page + AT_FLAGS) == FLAG_BRANCH;
    for (size_t at = 0; at < page_node_count(page); at++) {
        const uint8_t *node = page + get16(page + PAGE_HEAD_BYTES + 2 * at);
        bool is_big = get16(node + AT_NODE_FLAGS) & NODE_BIG;
        size_t data = is_branch ? 0 : is_big ? sizeof(uint64_t) : get32(node);
        size_t len = NODE_HEAD_BYTES + get16(node + AT_NODE_KEY) + data;
        used += len + len % 2;
    }
    return used == page_bytes - get16(page + AT_UPPER);
}

bool page_is_meta(const uint8_t *page, uint64_t number, uint64_t *transaction)
{
    const uint32_t magic = 0xBEEFC0DE;
    if (get64(page + AT_NUMBER) != number || get16(page + AT_FLAGS) != FLAG_META ||
        memcmp(page + AT_META_MAGIC, &magic, sizeof magic) != 0)
        return false;
    *transaction = get64(page + AT_META_TXNID);
    return *transaction == 0 || *transaction % 2 == number;
}

bool page_is_leaf(const uint8_t *page, size_t page_bytes)
{
    return get16(page + AT_FLAGS) == FLAG_LEAF && has_nodes(page, page_bytes);
}

size_t page_node_count(const uint8_t *page)
{
    return (size_t)(get16(page + AT_LOWER) - PAGE_HEAD_BYTES) / 2;
}

bool page_node(const uint8_t *page, size_t page_bytes, size_t at, struct page_node *node)
{
    size_t offset = get16(page + PAGE_HEAD_BYTES + 2 * at);
    if (offset < get16(page + AT_UPPER) || offset > page_bytes - NODE_HEAD_BYTES || offset % 2 != 0)
        return false;
    const uint8_t *head = page + offset;
    size_t room = page_bytes - offset - NODE_HEAD_BYTES, key_len = get16(head + AT_NODE_KEY);
    bool is_big = get16(head + AT_NODE_FLAGS) & NODE_BIG;
    size_t inside = is_big ? sizeof(uint64_t) : get32(head);
    if (key_len > room || inside > room - key_len)
        return false;
    const uint8_t *key = head + NODE_HEAD_BYTES, *data = key + key_len;
    *node = (struct page_node){.key = {key_len, (void *)key},
                               .data = is_big ? NULL : data,
                               .data_len = get32(head),
                               .first_page = is_big ? get64(data) : 0};
    return true;
}

bool page_child(const uint8_t *page, size_t page_bytes, size_t at, struct page_child *child)
{
    size_t offset = get16(page + PAGE_HEAD_BYTES + 2 * at);
    if (offset < get16(page + AT_UPPER) || offset > page_bytes - NODE_HEAD_BYTES || offset % 2 != 0)
        return false;
    const uint8_t *head = page + offset;
    size_t key_len = get16(head + AT_NODE_KEY);
    if (key_len > page_bytes - offset - NODE_HEAD_BYTES)
        return false;
    *child = (struct page_child){
        .key = {key_len, (void *)(head + NODE_HEAD_BYTES)},
        .number = get32(head) | (uint64_t)get16(head + AT_NODE_FLAGS) << 32,
    };
    return true;
}

bool page_is_sound_leaf(const uint8_t *page, uint64_t number, size_t page_bytes)
{
    struct page_node node;
    if (get64(page + AT_NUMBER) != number || !page_is_leaf(page, page_bytes))
        return false;
    for (size_t at = 0; at < page_node_count(page); at++)
        if (!page_node(page, page_bytes, at, &node))
            return false;
    return nodes_fill(page, page_bytes);
}

bool page_is_branch(const uint8_t *page, uint64_t number, size_t page_bytes)
{
    struct page_child child;
    if (get64(page + AT_NUMBER) != number || get16(page + AT_FLAGS) != FLAG_BRANCH ||
        !has_nodes(page, page_bytes))
        return false;
    for (size_t at = 0; at < page_node_count(page); at++)
        if (!page_child(page, page_bytes, at, &child))
            return false;
    return nodes_fill(page, page_bytes);
}

bool page_is_first_of(const uint8_t *page, uint64_t number, uint64_t data_len, size_t page_bytes)
{
    return get64(page + AT_NUMBER) == number && get16(page + AT_FLAGS) == FLAG_OVERFLOW &&
           get32(page + AT_PAGES) == (data_len + PAGE_HEAD_BYTES + page_bytes - 1) / page_bytes;
}

struct search {
    MDB_cursor *cursor;
    MDB_val key;
};

static int find_first(void *arg)
{
    struct search *search = arg;
    MDB_val data;
    return mdb_cursor_get(search->cursor, &search->key, &data, MDB_FIRST);
}

int page_map_find(MDB_txn *txn, struct page_map *map)
{
    enum { MAIN_DBI = 1 }; /* of the databases' names; it is never empty in a spool */
    struct search search;
    MDB_stat stat;
    MDB_envinfo info;
    mdb_env_stat(mdb_txn_env(txn), &stat);
    mdb_env_info(mdb_txn_env(txn), &info);
    *map = (struct page_map){.end = UINTPTR_MAX, .page_bytes = stat.ms_psize};
    int error = mdb_cursor_open(txn, MAIN_DBI, &search.cursor);
    if (error)
        return error;
    error = guard_run(find_first, &search);
    mdb_cursor_close(search.cursor);
    if (error)
        return error;
    uintptr_t page = page_of(map, &search.key);
    uint64_t number = get64((const uint8_t *)page + AT_NUMBER);
    if (number > info.me_last_pgno)
        return MDB_CORRUPTED;
    map->begin = page - (uintptr_t)(number * stat.ms_psize);
    map->end = map->begin + (uintptr_t)((info.me_last_pgno + 1) * stat.ms_psize);
    return page_is_sound(map, &search.key) ? 0 : MDB_CORRUPTED;
}

bool page_map_has(const struct page_map *map, const MDB_val *value)
{
    uintptr_t at = (uintptr_t)value->mv_data;
    return at >= map->begin && at <= map->end && value->mv_size <= map->end - at;
}

bool page_map_has_value(const struct page_map *map, const MDB_val *key, const MDB_val *value)
{
    if (!page_map_has(map, value))
        return false;
    uintptr_t start = page_of(map, value);
    if (map->begin == 0 || start == page_of(map, key))
        return true;
    return page_is_first_of((const uint8_t *)start, (start - map->begin) / map->page_bytes,
                            value->mv_size, map->page_bytes);
}

uintptr_t page_of(const struct page_map *map, const MDB_val *key)
{
    return (uintptr_t)key->mv_data & ~(uintptr_t)(map->page_bytes - 1);
}

bool page_is_sound(const struct page_map *map, const MDB_val *key)
{
    if (!page_map_has(map, key))
        return false;
    uintptr_t page = page_of(map, key);
    return page_is_sound_leaf((const uint8_t *)page, (page - map->begin) / map->page_bytes,
                              map->page_bytes);
}
