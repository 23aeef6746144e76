#include "base/log.h"
#include "spool/env.h"
#include "spool/guard.h"
#include "spool/record.h"
#include "spool/store_internal.h"

/* What damaged pages leave of the queues, found by reading them before anything relies on them. */

void store_note_damage(struct queue_slot *slot, enum queue_damage damage)
{
    if (damage <= slot->damage)
        return;
    LOG(LOG_ERROR, "queue_damaged", LOG_N("queue", slot->entry.id), LOG_T("user", slot->entry.user),
        LOG_T("vhost", slot->entry.vhost),
        LOG_T("reason", damage == QUEUE_TAILLESS
                            ? "its last page cannot be read: nothing is appended or deleted"
                            : "some pages cannot be read: what can is delivered, but not deleted"));
    slot->damage = damage;
}

/* In a transaction that writes pages are not all in the map. */
static struct page_map anywhere(const struct store *s)
{
    return (struct page_map){.end = UINTPTR_MAX, .page_bytes = (size_t)s->page_bytes};
}

void store_find_ends(const struct store *s, struct queue_slot *slot, MDB_txn *txn)
{
    struct walk_list list = {.records = slot->waiting, .queue = slot->entry.id, .map = anywhere(s)};
    if (slot->damage == QUEUE_SOUND && (walk_edge(txn, &list, false, &slot->ends.first) != 0 ||
                                        walk_edge(txn, &list, true, &slot->ends.last) != 0))
        store_note_damage(slot, QUEUE_HOLED);
}

/* ---- what a queue really holds ---- */

struct load_view {
    struct queue_slot *slot;
    uint64_t messages, bytes;
};

/* Runs `read` in a read transaction of its own, guarded. */
static int in_view(MDB_env *env, int (*read)(void *arg), void *arg, MDB_txn **txn)
{
    int error = env_begin(env, MDB_RDONLY, txn);
    if (error)
        return error;
    error = guard_run(read, arg);
    mdb_txn_abort(*txn);
    return error;
}

struct tree_view {
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_cursor *cursor; /* the caller closes it */
    struct page_map map;
    uint64_t last_seq; /* result: of the last key, if it begins with one */
};

/* Reads all keys: for trees that are small beside what hangs on them. */
static int read_tree(void *arg)
{
    struct tree_view *view = arg;
    MDB_val key, data;
    int error = page_map_find(view->txn, &view->map);
    if (!error)
        error = mdb_cursor_open(view->txn, view->dbi, &view->cursor);
    MDB_val last = {0};
    for (uintptr_t page = 0; !error; last = key) {
        error = mdb_cursor_get(view->cursor, &key, &data, MDB_NEXT);
        if (error)
            break;
        /* Keys out of order: a page in a wrong place may even lead back to itself. */
        if (!page_map_has(&view->map, &key) ||
            (last.mv_data && mdb_cmp(view->txn, view->dbi, &last, &key) >= 0) ||
            (page_of(&view->map, &key) != page && !page_is_sound(&view->map, &key)))
            error = MDB_CORRUPTED;
        page = page_of(&view->map, &key);
    }
    return error == MDB_NOTFOUND ? 0 : error;
}

static int read_tail(void *arg)
{
    struct tree_view *view = arg;
    MDB_val key, data;
    int error = page_map_find(view->txn, &view->map);
    if (!error)
        error = mdb_cursor_open(view->txn, view->dbi, &view->cursor);
    if (!error)
        error = mdb_cursor_get(view->cursor, &key, &data, MDB_LAST);
    if (!error && !page_is_sound(&view->map, &key))
        error = MDB_CORRUPTED;
    if (!error && key.mv_size >= RECORD_KEY_BYTES)
        view->last_seq = record_key_seq(key.mv_data);
    return error == MDB_NOTFOUND ? 0 : error;
}

static int look_at_tree(MDB_env *env, int (*read)(void *arg), struct tree_view *view)
{
    int error = in_view(env, read, view, &view->txn);
    if (view->cursor)
        mdb_cursor_close(view->cursor);
    view->cursor = NULL;
    return error;
}

static bool add_message(void *arg, uint64_t seq, const struct record *r, const struct iovec *body,
                        size_t body_count)
{
    (void)seq, (void)body, (void)body_count;
    struct load_view *view = arg;
    view->messages++;
    view->bytes += r->method.iov_len + r->header.iov_len + r->body_size;
    return true;
}

static bool add_damaged(void *arg, uint64_t seq, const char *what)
{
    (void)seq;
    struct load_view *view = arg;
    if (what == walk_pages_damaged)
        store_note_damage(view->slot, QUEUE_HOLED);
    else
        view->messages++;
    return true;
}

/* The entry has no checksum: LMDB counts records itself, and if the two differ they are counted. */
static void check_counters(struct store *s, struct queue_slot *slot)
{
    MDB_txn *txn;
    MDB_stat waiting = {0}, rejected = {0};
    MDB_envinfo info;
    mdb_env_info(s->env, &info);
    if (env_begin(s->env, MDB_RDONLY, &txn) != 0)
        return;
    struct directory_entry *e = &slot->entry;
    bool is_known = mdb_stat(txn, slot->waiting, &waiting) == 0 &&
                    mdb_stat(txn, slot->rejected, &rejected) == 0;
    uint64_t most_bytes = (info.me_last_pgno + 1) * s->page_bytes;
    if (is_known && (e->messages != waiting.ms_entries || e->bytes > most_bytes)) {
        struct load_view view = {.slot = slot};
        struct walk_list list = {.records = slot->waiting, .queue = e->id};
        if (page_map_find(txn, &list.map) == 0)
            walk_list(txn, list, 0, add_message, add_damaged, &view);
        LOG(LOG_WARN, "counters_mended", LOG_N("queue", e->id), LOG_N("from", e->messages),
            LOG_N("messages", waiting.ms_entries));
        e->messages = waiting.ms_entries;
        e->bytes = view.bytes;
    }
    if (is_known)
        e->rejected = rejected.ms_entries;
    mdb_txn_abort(txn);
}

/* Damaged pages of one queue are no reason not to serve the others. */
void store_look_at_queue(struct store *s, struct queue_slot *slot)
{
    const MDB_dbi lists[] = {slot->waiting, slot->rejected, slot->parts};
    MDB_txn *txn;
    for (unsigned i = 0; i < sizeof lists / sizeof *lists; i++) {
        struct tree_view view = {.dbi = lists[i]};
        int error = look_at_tree(s->env, read_tail, &view);
        /* What waits is looked at when it is read. */
        if (!error && lists[i] != slot->waiting)
            error = look_at_tree(s->env, read_tree, &view);
        if (error)
            store_note_damage(slot, QUEUE_TAILLESS);
        /* A sequence number is never used twice, whatever the `queues` database says. */
        if (view.last_seq >= slot->entry.next_seq)
            slot->entry.next_seq = view.last_seq + 1;
    }
    check_counters(s, slot);
    if (env_begin(s->env, MDB_RDONLY, &txn) != 0)
        return;
    store_find_ends(s, slot, txn);
    mdb_txn_abort(txn);
}

struct named_tree {
    struct tree_view view;
    const char *name; /* NULL: the database of databases */
};

static int read_named(void *arg)
{
    struct named_tree *tree = arg;
    int error = mdb_dbi_open(tree->view.txn, tree->name, 0, &tree->view.dbi);
    if (error)
        return error == MDB_NOTFOUND ? 0 : error;
    return read_tree(&tree->view);
}

/* What all queues hang on is read before anything is written. */
enum status store_check_trees(struct store *s, struct failure *failure)
{
    static const char *const names[] = {NULL, "meta", "queues"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        struct named_tree tree = {.name = names[i]};
        int error = in_view(s->env, read_named, &tree, &tree.view.txn);
        if (tree.view.cursor)
            mdb_cursor_close(tree.view.cursor);
        if (error)
            return env_error(failure, error, "reading the list of queues");
    }
    return STATUS_OK;
}
