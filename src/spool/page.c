#include "spool/page.h"

#include <string.h>

#include "spool/guard.h"

enum {
    AT_NUMBER = 0,
    AT_FLAGS = 10,
    AT_LOWER = 12, /* end of the offsets of the nodes, which begin behind the head */
    AT_UPPER = 14, /* begin of the nodes */
    HEAD_BYTES = 16,
    NODE_HEAD_BYTES = 8, /* length of the data (4), flags (2), length of the key (2) */
    AT_NODE_FLAGS = 4,
    AT_NODE_KEY = 6,
    AT_PAGES = 12, /* of values that have pages of their own: how many */
    FLAG_LEAF = 2,
    FLAG_OVERFLOW = 4,
    NODE_BIG = 1, /* its data are on pages of their own, and it holds the number of the first */
};

static uint16_t get16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static bool node_is_sound(const uint8_t *page, size_t page_bytes, size_t offset, size_t upper)
{
    if (offset < upper || offset > page_bytes - NODE_HEAD_BYTES || offset % 2 != 0)
        return false;
    const uint8_t *node = page + offset;
    uint32_t data_len;
    memcpy(&data_len, node, sizeof data_len);
    size_t room = page_bytes - offset - NODE_HEAD_BYTES, key_len = get16(node + AT_NODE_KEY);
    size_t inside = get16(node + AT_NODE_FLAGS) & NODE_BIG ? sizeof(uint64_t) : data_len;
    return key_len <= room && inside <= room - key_len;
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
    uint64_t number;
    memcpy(&number, (const uint8_t *)page + AT_NUMBER, sizeof number);
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
    const uint8_t *page = (const uint8_t *)start;
    uint64_t number;
    uint32_t pages;
    memcpy(&number, page + AT_NUMBER, sizeof number);
    memcpy(&pages, page + AT_PAGES, sizeof pages);
    return number == (start - map->begin) / map->page_bytes &&
           get16(page + AT_FLAGS) == FLAG_OVERFLOW &&
           pages == (value->mv_size + HEAD_BYTES + map->page_bytes - 1) / map->page_bytes;
}

uintptr_t page_of(const struct page_map *map, const MDB_val *key)
{
    return (uintptr_t)key->mv_data & ~(uintptr_t)(map->page_bytes - 1);
}

bool page_is_sound(const struct page_map *map, const MDB_val *key)
{
    if (!page_map_has(map, key))
        return false;
    const uint8_t *page = (const uint8_t *)page_of(map, key);
    uint64_t number;
    memcpy(&number, page + AT_NUMBER, sizeof number);
    size_t lower = get16(page + AT_LOWER), upper = get16(page + AT_UPPER);
    if (number != ((uintptr_t)page - map->begin) / map->page_bytes ||
        get16(page + AT_FLAGS) != FLAG_LEAF || lower <= HEAD_BYTES || lower % 2 != 0 ||
        lower > upper || upper > map->page_bytes)
        return false;
    for (size_t at = HEAD_BYTES; at < lower; at += 2)
        if (!node_is_sound(page, map->page_bytes, get16(page + at), upper))
            return false;
    return true;
}
