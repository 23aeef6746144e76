#include "spool/free_list.h"

#include <string.h>

#include "spool/branches.h"
#include "spool/guard.h"
#include "spool/page.h"

struct free_list {
    MDB_cursor *cursor;
    struct page_map map;
    free_list_visit visit;
    void *arg;
};

static int walk(void *arg)
{
    struct free_list *list = arg;
    MDB_val key, data;
    size_t last = 0;
    int error;
    while ((error = mdb_cursor_get(list->cursor, &key, &data, MDB_NEXT)) == 0) {
        size_t freed_by, count;
        if (key.mv_size != sizeof freed_by || data.mv_size < sizeof count ||
            !page_is_sound(&list->map, &key) || !page_map_has(&list->map, &data))
            return MDB_CORRUPTED;
        memcpy(&freed_by, key.mv_data, sizeof freed_by);
        memcpy(&count, data.mv_data, sizeof count);
        /* A page in a wrong place may even lead back to itself. */
        if (count > data.mv_size / sizeof count - 1 || (last && freed_by <= last))
            return MDB_CORRUPTED;
        last = freed_by;
        if (!list->visit(list->arg, freed_by, (const size_t *)data.mv_data + 1, count))
            return 0;
    }
    return error;
}

int free_list_walk(MDB_txn *txn, free_list_visit visit, void *arg)
{
    enum { FREE_DBI = 0 };
    struct free_list list = {.visit = visit, .arg = arg};
    MDB_envinfo info;
    mdb_env_info(mdb_txn_env(txn), &info);
    int error = mdb_cursor_open(txn, FREE_DBI, &list.cursor);
    if (error)
        return error;
    /* An environment without databases has no free pages, either. */
    error = info.me_last_pgno > 1 ? page_map_find(txn, &list.map) : MDB_NOTFOUND;
    if (!error && !branches_of_free_are_sound(txn, &list.map))
        error = MDB_CORRUPTED;
    if (!error)
        error = guard_run(walk, &list);
    mdb_cursor_close(list.cursor);
    return error == MDB_NOTFOUND ? 0 : error;
}

static bool add_free(void *arg, size_t freed_by, const size_t *pages, size_t count)
{
    struct page_set *set = arg;
    (void)freed_by;
    for (size_t i = 0; i < count; i++)
        if (pages[i] < set->pages)
            page_set_add(set, pages[i]);
    return true;
}

int free_list_collect(MDB_txn *txn, struct page_set *set)
{
    return free_list_walk(txn, add_free, set);
}
