#include "spool/branches.h"

#include <string.h>

#include "spool/guard.h"

enum {
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
    enum branches_depth depth;
    void (*damaged)(void *arg, const struct branches_range *);
    void *arg;
    bool has_numbers; /* its keys are numbers of this machine's own order */
    /* branches_check_around */
    MDB_val key;
    struct branches_range around;
};

/* A tree, as LMDB describes it. */
struct tree {
    uint16_t depth; /* 1: the root is a leaf; 0: there is none */
    uint64_t root;
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
static bool is_sound(const struct branches *b, uint64_t number, const struct branches_range *range)
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

/* The part of a branch's range that its child has. */
static uint64_t child_of(const struct branches *b, const uint8_t *page, size_t at,
                         const struct branches_range *range, struct branches_range *below)
{
    struct page_child child, next;
    page_child(page, b->map->page_bytes, at, &child);
    *below = (struct branches_range){at == 0 ? range->from : child.key, range->to};
    if (at + 1 < page_node_count(page)) {
        page_child(page, b->map->page_bytes, at + 1, &next);
        below->to = next.key;
    }
    return child.number;
}

static bool is_sound_leaf(const struct branches *b, uint64_t number)
{
    const uint8_t *page = page_at(b, number);
    return page && page_is_sound_leaf(page, number, b->map->page_bytes);
}

/* All that is right below a sound branch, so many levels above the leaves. */
static bool children_are_sound(const struct branches *b, const uint8_t *page, unsigned levels,
                               const struct branches_range *range)
{
    struct branches_range below;
    bool are_sound = true;
    for (size_t at = 0; at < page_node_count(page) && are_sound; at++) {
        uint64_t number = child_of(b, page, at, range, &below);
        are_sound = levels > 1 ? is_sound(b, number, &below) : is_sound_leaf(b, number);
    }
    return are_sound;
}

/* `number` is sound, and so many levels above the leaves. */
static void look_below(const struct branches *b, uint64_t number, unsigned levels,
                       const struct branches_range *range)
{
    const uint8_t *page = page_at(b, number);
    struct branches_range below;
    if (levels == 1 && b->depth == BRANCHES_ALONE)
        return;
    if (!children_are_sound(b, page, levels, range)) {
        b->damaged(b->arg, range);
        return;
    }
    for (size_t at = 0; at < page_node_count(page) && levels > 1; at++) {
        uint64_t child = child_of(b, page, at, range, &below);
        look_below(b, child, levels - 1, &below);
    }
}

static struct tree tree_of(const uint8_t *db)
{
    struct tree tree;
    memcpy(&tree.depth, db + AT_DEPTH, sizeof tree.depth);
    memcpy(&tree.root, db + AT_ROOT, sizeof tree.root);
    return tree;
}

static int check_from(const struct branches *b, struct tree tree)
{
    const struct branches_range all = {0};
    if (tree.depth > DEPTH_MAX)
        return MDB_CORRUPTED;
    bool is_leaf = tree.depth == 1 && b->depth == BRANCHES_AND_LEAVES;
    if ((is_leaf && !is_sound_leaf(b, tree.root)) ||
        (tree.depth > 1 && !is_sound(b, tree.root, &all)))
        b->damaged(b->arg, &all);
    else if (tree.depth > 1)
        look_below(b, tree.root, tree.depth - 1U, &all);
    return 0;
}

static int find_named(struct branches *b, struct tree *tree)
{
    MDB_val name = {strlen(b->database), (void *)(uintptr_t)b->database}, db;
    MDB_dbi names;
    int error = mdb_dbi_open(b->txn, NULL, 0, &names);
    if (!error)
        error = mdb_cursor_open(b->txn, names, &b->cursor);
    if (!error)
        error = mdb_cursor_get(b->cursor, &name, &db, MDB_SET_KEY);
    if (error)
        return error;
    if (db.mv_size != DB_BYTES || !page_map_has(b->map, &db))
        return MDB_CORRUPTED;
    *tree = tree_of(db.mv_data);
    return 0;
}

static int check_named(void *arg)
{
    struct branches *b = arg;
    struct tree tree;
    int error = find_named(b, &tree);
    return error ? error : check_from(b, tree);
}

static int check_free(void *arg)
{
    const struct branches *b = arg;
    return check_from(b, tree_of(page_at(b, mdb_txn_id(b->txn) & 1) + AT_FREE_DB));
}

static size_t find_child(const struct branches *b, const uint8_t *page, MDB_val key)
{
    struct page_child child;
    size_t at = page_node_count(page) - 1;
    while (at > 0 && page_child(page, b->map->page_bytes, at, &child) &&
           compare(b, child.key, key) > 0)
        at--;
    return at;
}

static int check_around(void *arg)
{
    struct branches *b = arg;
    struct tree tree;
    int error = find_named(b, &tree);
    if (error || tree.depth == 0)
        return error;
    if (tree.depth == 1)
        return is_sound_leaf(b, tree.root) ? 0 : MDB_CORRUPTED;
    if (tree.depth > DEPTH_MAX)
        return MDB_CORRUPTED;
    uint64_t number = tree.root;
    for (unsigned levels = tree.depth - 1U;; levels--) {
        const uint8_t *page = page_at(b, number);
        if (!is_sound(b, number, &b->around) || !children_are_sound(b, page, levels, &b->around))
            return MDB_CORRUPTED;
        if (levels == 1)
            return 0;
        struct branches_range range = b->around;
        number = child_of(b, page, find_child(b, page, b->key), &range, &b->around);
    }
}

static int run(struct branches *b, int (*check)(void *arg))
{
    int error = guard_run(check, b);
    if (b->cursor)
        mdb_cursor_close(b->cursor);
    return error;
}

int branches_check(MDB_txn *txn, const struct page_map *map, const char *database,
                   enum branches_depth depth,
                   void (*damaged)(void *arg, const struct branches_range *), void *arg)
{
    struct branches b = {.txn = txn,
                         .map = map,
                         .database = database,
                         .depth = depth,
                         .damaged = damaged,
                         .arg = arg};
    return run(&b, check_named);
}

int branches_check_around(MDB_txn *txn, const struct page_map *map, const char *database,
                          MDB_val key, struct branches_range *range)
{
    struct branches b = {.txn = txn, .map = map, .database = database, .key = key};
    int error = run(&b, check_around);
    *range = b.around;
    return error;
}

static void note_any(void *arg, const struct branches_range *range)
{
    (void)range;
    *(bool *)arg = true;
}

bool branches_are_sound(MDB_txn *txn, const struct page_map *map, const char *database)
{
    bool is_any = false;
    return branches_check(txn, map, database, BRANCHES_ALONE, note_any, &is_any) == 0 && !is_any;
}

bool branches_of_free_are_sound(MDB_txn *txn, const struct page_map *map)
{
    bool is_any = false;
    struct branches b = {
        .txn = txn, .map = map, .has_numbers = true, .damaged = note_any, .arg = &is_any};
    return run(&b, check_free) == 0 && !is_any;
}
