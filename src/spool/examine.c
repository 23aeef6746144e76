#include "base/log.h"
#include "spool/branches.h"
#include "spool/env.h"
#include "spool/guard.h"
#include "spool/record.h"
#include "spool/store.h"
#include "spool/store_internal.h"
#include "spool/view.h"

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
    struct walk_list list = {.records = s->messages, .queue = slot->entry.id, .map = anywhere(s)};
    if (slot->damage == QUEUE_SOUND && (walk_edge(txn, &list, false, &slot->ends.first) != 0 ||
                                        walk_edge(txn, &list, true, &slot->ends.last) != 0))
        store_note_damage(slot, QUEUE_HOLED);
}

/* ---- pages ---- */

/* Runs `read` in a read transaction of its own, guarded. */
static int in_view(MDB_env *env, int (*read)(void *arg), void *arg, MDB_txn **txn)
{
    int error = view_begin(env, txn);
    if (error)
        return error;
    error = guard_run(read, arg);
    view_end(*txn);
    return error;
}

struct tree_view {
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_cursor *cursor; /* the caller closes it */
    struct page_map map;
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

static int look_at_tree(MDB_env *env, int (*read)(void *arg), struct tree_view *view)
{
    int error = in_view(env, read, view, &view->txn);
    if (view->cursor)
        mdb_cursor_close(view->cursor);
    view->cursor = NULL;
    return error;
}

struct named_tree {
    struct tree_view view;
    const char *name; /* NULL: the database of databases */
};

static int read_named(void *arg)
{
    struct named_tree *tree = arg;
    int error = guard_open(tree->view.txn, tree->name, 0, &tree->view.dbi);
    if (error)
        return error == MDB_NOTFOUND ? 0 : error;
    error = read_tree(&tree->view);
    bool is_sound =
        error || !tree->name || branches_are_sound(tree->view.txn, &tree->view.map, tree->name);
    return is_sound ? error : MDB_CORRUPTED;
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

/* ---- what a queue really holds ---- */

/* The keys of one queue in one of the lists. */
struct range_view {
    struct tree_view tree;
    uint32_t queue;
    uint64_t from;     /* the first number that is looked at */
    uint64_t last_seq; /* result: the highest number */
};

static bool is_key(const MDB_val *key)
{
    return key->mv_size == RECORD_KEY_BYTES || key->mv_size == RECORD_PART_KEY_BYTES;
}

/* A damaged key may say any number. Behind one that no queue can come to there would be no room for
 * others. */
#define SEQ_END (UINT64_C(1) << 63)

/* Reads the pages with the keys from `from` on, and the ones before and behind, which LMDB may
 * write to with them. */
static int read_range(void *arg)
{
    struct range_view *view = arg;
    struct tree_view *tree = &view->tree;
    uint8_t from[RECORD_KEY_BYTES];
    record_key(from, view->queue, view->from);
    MDB_val key = {sizeof from, from}, last = {0};
    int error = page_map_find(tree->txn, &tree->map);
    if (!error)
        error = mdb_cursor_open(tree->txn, tree->dbi, &tree->cursor);
    if (error)
        return error;
    error = mdb_cursor_get(tree->cursor, &key, NULL, MDB_SET_RANGE);
    if (error == 0 || error == MDB_NOTFOUND)
        error = mdb_cursor_get(tree->cursor, &key, NULL, error ? MDB_LAST : MDB_PREV);
    if (error == MDB_NOTFOUND) /* there is none before it */
        error = mdb_cursor_get(tree->cursor, &key, NULL, MDB_FIRST);
    for (uintptr_t page = 0; !error; error = mdb_cursor_get(tree->cursor, &key, NULL, MDB_NEXT)) {
        if (!page_map_has(&tree->map, &key) || !is_key(&key) ||
            (last.mv_data && mdb_cmp(tree->txn, tree->dbi, &last, &key) >= 0) ||
            (page_of(&tree->map, &key) != page && !page_is_sound(&tree->map, &key)))
            return MDB_CORRUPTED;
        page = page_of(&tree->map, &key);
        last = key;
        if (record_key_queue(key.mv_data) > view->queue)
            return 0;
        if (record_key_queue(key.mv_data) == view->queue && record_key_seq(key.mv_data) < SEQ_END)
            view->last_seq = record_key_seq(key.mv_data);
    }
    return error == MDB_NOTFOUND ? 0 : error;
}

void store_look_at_pages(struct store *s, struct queue_slot *slot)
{
    const struct {
        MDB_dbi dbi;
        uint64_t from;
    } lists[] = {{s->messages, UINT64_MAX}, {s->rejected, 0}, {s->parts, 0}};
    for (unsigned i = 0; i < sizeof lists / sizeof *lists; i++) {
        struct range_view view = {
            .tree.dbi = lists[i].dbi, .queue = slot->entry.id, .from = lists[i].from};
        if (look_at_tree(s->env, read_range, &view.tree) != 0)
            store_note_damage(slot, QUEUE_TAILLESS);
        /* A sequence number is never used twice, whatever the `queues` database says. */
        if (view.last_seq >= slot->entry.next_seq)
            slot->entry.next_seq = view.last_seq + 1;
    }
}

static uint32_t queue_of(MDB_val key, uint32_t otherwise)
{
    return key.mv_size < RECORD_KEY_BYTES ? otherwise : record_key_queue(key.mv_data);
}

static void note_range(void *arg, const struct branches_range *range)
{
    struct store *s = arg;
    uint32_t first = queue_of(range->from, 0), last = queue_of(range->to, UINT32_MAX);
    for (uint32_t i = 0; i < s->slot_count; i++)
        if (s->slots[i].entry.id >= first && s->slots[i].entry.id <= last)
            store_note_damage(&s->slots[i], QUEUE_TAILLESS);
}

/* The leaves of what waits are looked at when they are read: that may be all of the spool. */
static void look_at_branches(struct store *s)
{
    static const struct {
        const char *name;
        enum branches_depth depth;
    } trees[] = {{"messages", BRANCHES_ALONE},
                 {"rejected", BRANCHES_AND_LEAVES},
                 {"parts", BRANCHES_AND_LEAVES}};
    MDB_txn *txn;
    struct page_map map;
    if (view_begin(s->env, &txn) != 0)
        return;
    int error = page_map_find(txn, &map);
    for (unsigned i = 0; i < sizeof trees / sizeof *trees && !error; i++)
        error = branches_check(txn, &map, trees[i].name, trees[i].depth, note_range, s);
    if (error)
        note_range(s, &(struct branches_range){0});
    view_end(txn);
}

void store_look_around(struct queue_slot *slot, uint64_t seq, MDB_txn *txn,
                       const struct page_map *map)
{
    uint8_t key_bytes[RECORD_KEY_BYTES];
    uint32_t queue = slot->entry.id;
    record_key(key_bytes, queue, seq);
    MDB_val key = {sizeof key_bytes, key_bytes};
    struct branches_range range;
    if (slot->damage != QUEUE_SOUND || (seq >= slot->sound_from && seq < slot->sound_to))
        return;
    if (branches_check_around(txn, map, "messages", key, &range) != 0) {
        store_note_damage(slot, QUEUE_HOLED);
        return;
    }
    bool begins = queue_of(range.from, 0) == queue && range.from.mv_size > 0;
    bool ends = queue_of(range.to, UINT32_MAX) == queue;
    slot->sound_from = begins ? record_key_seq(range.from.mv_data) : 0;
    slot->sound_to = ends ? record_key_seq(range.to.mv_data) : UINT64_MAX;
}

/* ---- counters ---- */

struct recount {
    struct queue_slot *slot; /* NULL: of a queue whose login is lost */
    uint64_t messages, bytes;
};

static bool add_message(void *arg, uint64_t seq, const struct record *r, const struct iovec *body,
                        size_t body_count)
{
    (void)seq, (void)body, (void)body_count;
    struct recount *count = arg;
    count->messages++;
    count->bytes += r->method.iov_len + r->header.iov_len + r->body_size;
    return true;
}

static bool add_damaged(void *arg, uint64_t seq, const char *what)
{
    (void)seq;
    struct recount *count = arg;
    if (what != walk_pages_damaged)
        count->messages++;
    else if (count->slot)
        store_note_damage(count->slot, QUEUE_HOLED);
    return true;
}

static struct recount count_list(struct store *s, MDB_dbi list, uint32_t queue,
                                 struct queue_slot *slot)
{
    MDB_txn *txn;
    struct recount count = {.slot = slot};
    struct walk_list records = {.records = list, .queue = queue, .rejected = list == s->rejected};
    if (view_begin(s->env, &txn) != 0)
        return count;
    if (page_map_find(txn, &records.map) == 0)
        walk_list(txn, records, 0, add_message, add_damaged, &count);
    view_end(txn);
    return count;
}

static void count_anew(struct store *s, struct queue_slot *slot)
{
    struct directory_entry *e = &slot->entry;
    struct recount waiting = count_list(s, s->messages, e->id, slot),
                   rejected = count_list(s, s->rejected, e->id, slot);
    if (e->messages != waiting.messages || e->bytes != waiting.bytes ||
        e->rejected != rejected.messages)
        LOG(LOG_WARN, "counters_mended", LOG_N("queue", e->id), LOG_N("from", e->messages),
            LOG_N("messages", waiting.messages));
    e->messages = waiting.messages;
    e->bytes = waiting.bytes;
    e->rejected = rejected.messages;
    e->lost &= ~(unsigned)DIRECTORY_COUNTERS_LOST;
    slot->is_mended = true;
}

/* Records that belong to no queue that is served. */
struct orphans {
    uint64_t messages, rejected;
};

/* LMDB counts what is in a database: the sum over all queues has to be the same. */
static bool sums_agree(struct store *s, struct orphans sum)
{
    MDB_txn *txn;
    MDB_stat waiting = {0}, rejected = {0};
    if (view_begin(s->env, &txn) != 0)
        return true;
    bool is_known =
        mdb_stat(txn, s->messages, &waiting) == 0 && mdb_stat(txn, s->rejected, &rejected) == 0;
    view_end(txn);
    for (uint32_t i = 0; i < s->slot_count; i++) {
        sum.messages += s->slots[i].entry.messages;
        sum.rejected += s->slots[i].entry.rejected;
    }
    return !is_known || (sum.messages == waiting.ms_entries && sum.rejected == rejected.ms_entries);
}

static void check_counters(struct store *s)
{
    struct orphans orphans = {0};
    for (uint32_t i = 0; i < s->slot_count; i++)
        if (s->slots[i].entry.lost)
            count_anew(s, &s->slots[i]);
    for (uint32_t i = 0; i < s->lost.count; i++) {
        orphans.messages += count_list(s, s->messages, s->lost.ids[i], NULL).messages;
        orphans.rejected += count_list(s, s->rejected, s->lost.ids[i], NULL).messages;
    }
    if (sums_agree(s, orphans))
        return;
    for (uint32_t i = 0; i < s->slot_count; i++)
        count_anew(s, &s->slots[i]);
}

void store_look_at_queues(struct store *s)
{
    MDB_txn *txn;
    look_at_branches(s);
    for (uint32_t i = 0; i < s->slot_count; i++)
        store_look_at_pages(s, &s->slots[i]);
    check_counters(s);
    for (uint32_t i = 0; i < s->slot_count; i++) {
        if (view_begin(s->env, &txn) != 0)
            return;
        store_find_ends(s, &s->slots[i], txn);
        view_end(txn); /* after damage it would say nothing of the others */
    }
}
