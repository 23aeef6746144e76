#include "spool/branches.h"

#include <string.h>

#include "spool/guard.h"

enum {
    MAIN_DBI = 1,
    DEPTH_MAX = 32, /* LMDB's own limit (CURSOR_STACK) */
    /* MDB_db is the value of a database's name; that of the free pages is in the head of the file,
     * of which there are two, written in turn. */
    AT_FREE_DB = PAGE_HEAD_BYTES + 24,
    DB_BYTES = 48,
    AT_DEPTH = 6,
    AT_ROOT = 40,
};

struct branches {
    MDB_txn *txn;
    MDB_cursor *cursor; /* the caller closes it */
    const struct page_map *map;
    const char *database;
    branches_damaged damaged;
    void *arg;
    bool has_numbers; /* its keys are numbers of this machine's own order */
};

struct range {
    MDB_val from, to;
};

static const uint8_t *page_at(const struct branches *b, uint64_t number)
{
    uint64_t count = (b->map->end - b->map->begin) / b->map->page_bytes;
    return number < count ? (const uint8_t *)b->map->begin + number * b->map->page_bytes : NULL;
}

static int compare_numbers(MDB_val a, MDB_val b)
{
    size_t x = 0, y = 0;
    memcpy(&x, a.mv_data, sizeof x);
    memcpy(&y, b.mv_data, sizeof y);
    return (x > y) - (x < y);
}

static int compare(const struct branches *tree, MDB_val a, MDB_val b)
{
    if (tree->has_numbers && a.mv_size == sizeof(size_t) && b.mv_size == sizeof(size_t))
        return compare_numbers(a, b);
    size_t len = a.mv_size < b.mv_size ? a.mv_size : b.mv_size;
    int order = len > 0 ? memcmp(a.mv_data, b.mv_data, len) : 0;
    return order != 0 ? order : (a.mv_size > b.mv_size) - (a.mv_size < b.mv_size);
}

/* Its keys rise, within the range; the first one stands for all that is lower. */
static bool is_sound(const struct branches *b, uint64_t number, const struct range *range)
{
    const uint8_t *page = page_at(b, number);
    struct page_child child, before = {.key = range->from};
    if (!page || !page_is_branch(page, number, b->map->page_bytes))
        return false;
    size_t count = page_node_count(page);
    for (size_t at = 0; at < count; at++, before = child) {
        page_child(page, b->map->page_bytes, at, &child);
        if (!page_at(b, child.number))
            return false;
        if (at == 0)
            child.key = range->from;
        else if (compare(b, child.key, before.key) <= 0)
            return false;
    }
    return range->to.mv_size == 0 || compare(b, before.key, range->to) < 0;
}

/* `number` is sound, and so many levels above the leaves. */
static void look_below(const struct branches *b, uint64_t number, unsigned levels,
                       const struct range *range)
{
    const uint8_t *page = page_at(b, number);
    size_t count = page_node_count(page);
    struct page_child child, next;
    bool are_sound = true;
    if (levels == 1)
        return;
    for (unsigned pass = 0; pass < 2 && are_sound; pass++)
        for (size_t at = 0; at < count; at++) {
            struct range below = {.to = range->to};
            page_child(page, b->map->page_bytes, at, &child);
            below.from = at == 0 ? range->from : child.key;
            if (at + 1 < count) {
                page_child(page, b->map->page_bytes, at + 1, &next);
                below.to = next.key;
            }
            if (pass == 0)
                are_sound = is_sound(b, child.number, &below) && are_sound;
            else
                look_below(b, child.number, levels - 1, &below);
        }
    if (!are_sound)
        b->damaged(b->arg, range->from, range->to);
}

static int check_from(const struct branches *b, const uint8_t *db)
{
    const struct range all = {0};
    uint16_t depth;
    uint64_t root;
    memcpy(&depth, db + AT_DEPTH, sizeof depth);
    memcpy(&root, db + AT_ROOT, sizeof root);
    if (depth < 2)
        return 0; /* a leaf, or nothing */
    if (depth > DEPTH_MAX)
        return MDB_CORRUPTED;
    if (is_sound(b, root, &all))
        look_below(b, root, depth - 1U, &all);
    else
        b->damaged(b->arg, all.from, all.to);
    return 0;
}

static int check_named(void *arg)
{
    struct branches *b = arg;
    MDB_val name = {strlen(b->database), (void *)(uintptr_t)b->database}, db;
    int error = mdb_cursor_open(b->txn, MAIN_DBI, &b->cursor);
    if (!error)
        error = mdb_cursor_get(b->cursor, &name, &db, MDB_SET_KEY);
    if (error)
        return error;
    return db.mv_size == DB_BYTES && page_map_has(b->map, &db) ? check_from(b, db.mv_data)
                                                               : MDB_CORRUPTED;
}

static int check_free(void *arg)
{
    const struct branches *b = arg;
    return check_from(b, page_at(b, mdb_txn_id(b->txn) & 1) + AT_FREE_DB);
}

int branches_check(MDB_txn *txn, const struct page_map *map, const char *database,
                   branches_damaged damaged, void *arg)
{
    struct branches b = {
        .txn = txn, .map = map, .database = database, .damaged = damaged, .arg = arg};
    int error = guard_run(check_named, &b);
    if (b.cursor)
        mdb_cursor_close(b.cursor);
    return error;
}

static void note_any(void *arg, MDB_val from, MDB_val to)
{
    (void)from, (void)to;
    *(bool *)arg = true;
}

bool branches_are_sound(MDB_txn *txn, const struct page_map *map, const char *database)
{
    bool is_any = false;
    return branches_check(txn, map, database, note_any, &is_any) == 0 && !is_any;
}

bool branches_of_free_are_sound(MDB_txn *txn, const struct page_map *map)
{
    bool is_any = false;
    struct branches b = {
        .txn = txn, .map = map, .has_numbers = true, .damaged = note_any, .arg = &is_any};
    return guard_run(check_free, &b) == 0 && !is_any;
}
