#include "spool/store.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "spool/big_endian.h"
#include "spool/directory.h"
#include "spool/env.h"
#include "spool/guard.h"
#include "spool/record.h"
#include "spool/store_internal.h"

/* Happy path: begin, writes, commit. Counters of the queues are kept in memory and written to the
 * `queues` database with the commit that changes them.
 *
 * What can fail: a write (LMDB then refuses everything but an abort) or the commit; both restore
 * the counters as they were at begin. LMDB 0.9 panics after a failed meta page write: STATUS_FATAL,
 * and the owner opens the store again. */

enum {
    RECOUNT_MS = 100,
    ORDINARY_BYTES = 128 * 1024, /* a message that is not large */
    RESERVE_MIN_BYTES = 1024 * 1024,
    RESERVE_DIVISOR = 64,    /* of max_size */
    RESERVE_DIVISOR_MAX = 4, /* but no more than this share of a small one */
    MARGIN_DIVISOR = 16,     /* of max_size: nearer to it, free pages are counted every time */
    BEYOND_MIN_BYTES = 64 * 1024 * 1024,
};

#define LAST_DROPPED "last_dropped" /* in `meta` */

/* ---- opening ---- */

static int put_version(MDB_txn *txn, MDB_dbi meta)
{
    uint8_t value[4] = {0, 0, 0, SPOOL_FORMAT_VERSION};
    MDB_val key = {sizeof "version" - 1, "version"}, data = {sizeof value, value};
    return mdb_put(txn, meta, &key, &data, 0);
}

/* For readers: the map is larger than spool.max_size. */
static int put_max_size(struct store *s, MDB_txn *txn)
{
    uint8_t value[8];
    MDB_val key = {sizeof ENV_MAX_SIZE - 1, ENV_MAX_SIZE}, data;
    big_endian_put(value, s->max_bytes, sizeof value);
    if (mdb_get(txn, s->meta, &key, &data) == 0 && data.mv_size == sizeof value &&
        memcmp(data.mv_data, value, sizeof value) == 0)
        return 0;
    data = (MDB_val){sizeof value, value};
    return mdb_put(txn, s->meta, &key, &data, 0);
}

static enum status open_databases(struct store *s, MDB_txn *txn, struct failure *failure)
{
    uint32_t version;
    enum status status = env_read_version(txn, &s->meta, &version, failure);
    if (status == STATUS_NOT_FOUND) {
        int error = mdb_dbi_open(txn, "meta", MDB_CREATE, &s->meta);
        if (!error)
            error = put_version(txn, s->meta);
        status = env_error(failure, error, "writing the format version");
    } else if (status == STATUS_OK && version > SPOOL_FORMAT_VERSION) {
        return failure_set(failure, STATUS_VERSION,
                           "the spool has format version %u, this amqpbuf knows up to %u", version,
                           SPOOL_FORMAT_VERSION);
    }
    if (status != STATUS_OK)
        return status;
    unsigned create = s->is_free_list_damaged ? 0 : MDB_CREATE;
    return env_error(failure, mdb_dbi_open(txn, "queues", create, &s->queues),
                     "opening the queues");
}

static struct queue_slot *add_slot(struct store *s)
{
    s->slots = realloc(s->slots, (s->slot_count + 1) * sizeof *s->slots);
    ENSURE(s->slots);
    struct queue_slot *slot = &s->slots[s->slot_count++];
    *slot = (struct queue_slot){0};
    return slot;
}

static enum status open_lists(const struct store *s, struct queue_slot *slot, MDB_txn *txn,
                              struct failure *failure)
{
    char name[16];
    directory_database(name, 'q', slot->entry.id);
    unsigned create = s->is_free_list_damaged ? 0 : MDB_CREATE;
    int error = mdb_dbi_open(txn, name, create, &slot->waiting);
    directory_database(name, 'r', slot->entry.id);
    if (!error)
        error = mdb_dbi_open(txn, name, create, &slot->rejected);
    directory_database(name, 'b', slot->entry.id);
    if (!error)
        error = mdb_dbi_open(txn, name, create, &slot->parts);
    if (error == MDB_DBS_FULL)
        return failure_set(failure, STATUS_FULL, "more than %d queues in one spool",
                           ENV_DATABASES_MAX / 3 - 1);
    return env_error(failure, error, "opening a queue");
}

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

static void find_ends(const struct store *s, struct queue_slot *slot, MDB_txn *txn)
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
static void look_at_queue(struct store *s, struct queue_slot *slot)
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
    find_ends(s, slot, txn);
    mdb_txn_abort(txn);
}

/* ---- opening, on ---- */

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
static enum status check_trees(struct store *s, struct failure *failure)
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

/* Queues that were dropped keep their ids to themselves. */
static int load_last_dropped(struct store *s, MDB_txn *txn)
{
    MDB_val key = {sizeof LAST_DROPPED - 1, LAST_DROPPED}, data;
    int error = mdb_get(txn, s->meta, &key, &data);
    if (error == MDB_NOTFOUND)
        return 0;
    if (!error && data.mv_size == 4)
        s->last_dropped = (uint32_t)big_endian_get(data.mv_data, 4);
    return error;
}

static enum status load_queues(struct store *s, MDB_txn *txn, struct failure *failure)
{
    MDB_cursor *cursor;
    MDB_val key, data;
    int error = mdb_cursor_open(txn, s->queues, &cursor);
    if (error)
        return env_error(failure, error, "reading the queues");
    enum status status = STATUS_OK;
    while (status == STATUS_OK && (error = mdb_cursor_get(cursor, &key, &data, MDB_NEXT)) == 0) {
        struct queue_slot *slot = add_slot(s);
        status = directory_decode(&key, &data, &slot->entry, failure);
    }
    mdb_cursor_close(cursor);
    for (uint32_t i = 0; status == STATUS_OK && i < s->slot_count; i++)
        status = open_lists(s, &s->slots[i], txn, failure);
    if (status == STATUS_OK && error != MDB_NOTFOUND)
        return env_error(failure, error, "reading the queues");
    return status;
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void note_free_list(struct store *s, const struct failure *failure)
{
    if (!s->is_free_list_damaged)
        LOG(LOG_ERROR, "spool_damaged",
            LOG_T("reason", "the list of free pages cannot be read: what waits is delivered, and "
                            "nothing is stored or deleted"),
            LOG_T("error", failure ? failure->text : NULL));
    s->is_free_list_damaged = true;
    s->counted_ms = now_ms();
}

enum status store_recount(struct store *s, struct failure *failure)
{
    MDB_txn *txn;
    struct env_pages pages;
    int error = env_begin(s->env, MDB_RDONLY, &txn);
    if (error)
        return env_error(failure, error, "counting free pages");
    enum status status = env_count_pages(s->env, txn, &pages, failure);
    mdb_txn_abort(txn);
    s->page_bytes = pages.bytes;
    if (status == STATUS_DAMAGED) {
        note_free_list(s, failure);
        return STATUS_OK;
    }
    s->used_bytes = pages.used * pages.bytes + (s->txn ? s->txn_bytes : 0);
    uint64_t held = pages.held * pages.bytes, bearable = s->reserve_bytes / 4;
    s->held_bytes = held > bearable ? held - bearable : 0;
    s->is_reader_behind = pages.is_reader_behind;
    s->holder = (struct store_holder){pages.holder_pid, pages.holder_pid ? held : 0};
    s->counted_ms = now_ms();
    return status;
}

/* What a transaction frees, the next but one can use. A large deletion may be the last that
 * happens for a long time: an empty transaction makes room for what comes. */
static enum status pass_transaction(struct store *s, struct failure *failure)
{
    MDB_txn *txn;
    if (s->is_free_list_damaged)
        return STATUS_OK;
    int error = mdb_txn_begin(s->env, NULL, 0, &txn);
    if (error)
        return env_error(failure, error, "starting a transaction");
    error = put_version(txn, s->meta);
    if (error)
        mdb_txn_abort(txn);
    else
        error = mdb_txn_commit(txn);
    return error ? env_error(failure, error, "making room") : store_recount(s, failure);
}

static bool keeps_checkpoints(const struct store *s)
{
    return s->checkpoint.fd >= 0;
}

/* The checkpoint's own reader holds pages back, too: it moves on. */
static enum status make_room(struct store *s, struct failure *failure)
{
    if (s->is_reader_behind && !keeps_checkpoints(s))
        return STATUS_OK;
    enum status status = pass_transaction(s, failure);
    if (status == STATUS_OK && keeps_checkpoints(s))
        status = checkpoint_take(&s->checkpoint, s->env, failure);
    return status == STATUS_OK && keeps_checkpoints(s) ? store_recount(s, failure) : status;
}

static enum status count_room(struct store *s, struct failure *failure)
{
    uint64_t near = s->max_bytes - s->reserve_bytes - s->max_bytes / MARGIN_DIVISOR;
    enum status status = STATUS_OK;
    if (s->used_bytes + s->held_bytes > near || now_ms() - s->counted_ms >= RECOUNT_MS)
        status = store_recount(s, failure);
    return status == STATUS_OK && s->held_bytes > 0 ? make_room(s, failure) : status;
}

static uint64_t reserve_of(uint64_t max_bytes)
{
    uint64_t share = max_bytes / RESERVE_DIVISOR, most = max_bytes / RESERVE_DIVISOR_MAX;
    uint64_t reserve = share > RESERVE_MIN_BYTES ? share : RESERVE_MIN_BYTES;
    return reserve < most ? reserve : most;
}

static enum status load(struct store *s, struct failure *failure)
{
    MDB_txn *txn;
    CRASH_POINT("before_load");
    enum status status = store_recount(s, failure);
    if (status == STATUS_OK)
        status = check_trees(s, failure);
    if (status != STATUS_OK)
        return status;
    int error = mdb_txn_begin(s->env, NULL, s->is_free_list_damaged ? MDB_RDONLY : 0, &txn);
    if (error)
        return env_error(failure, error, "starting to read the spool");
    status = open_databases(s, txn, failure);
    if (status == STATUS_OK && !s->is_free_list_damaged)
        status = env_error(failure, put_max_size(s, txn), "writing the spool's limit");
    if (status == STATUS_OK)
        status = env_error(failure, load_last_dropped(s, txn), "reading the highest queue's id");
    if (status == STATUS_OK)
        status = load_queues(s, txn, failure);
    if (status != STATUS_OK) {
        mdb_txn_abort(txn);
        return status;
    }
    CRASH_POINT("before_first_commit");
    error = mdb_txn_commit(txn);
    CRASH_POINT("after_first_commit");
    if (error)
        return env_error(failure, error, "committing the first transaction");
    for (uint32_t i = 0; i < s->slot_count; i++)
        look_at_queue(s, &s->slots[i]);
    return store_recount(s, failure);
}

/* Deletions may go beyond max_size: a reader that stands still keeps all pages from being used
 * again, and each deletion copies some. Without this the spool could not be drained then. */
static uint64_t map_bytes(uint64_t max_bytes)
{
    return max_bytes + (max_bytes > BEYOND_MIN_BYTES ? max_bytes : BEYOND_MIN_BYTES);
}

static enum status open_env(struct store *s, const struct store_options *options,
                            struct failure *failure)
{
    enum status status = checkpoint_restore(s->path, &s->was_restored, failure);
    if (status == STATUS_OK)
        status = env_open(&s->env, s->path, map_bytes(options->max_size_bytes),
                          options->sync == STORE_SYNC_COMMIT ? 0 : MDB_NOSYNC, failure);
    if (status == STATUS_OK)
        status = options->sync == STORE_SYNC_INTERVAL
                     ? checkpoint_begin(&s->checkpoint, s->path, s->env, failure)
                     : checkpoint_remove(s->path, s->env, failure);
    return status;
}

enum status store_open(struct store **store, const struct store_options *options,
                       struct failure *failure)
{
    struct store *s = calloc(1, sizeof *s);
    ENSURE(s);
    s->checkpoint.fd = -1;
    s->lock = HOME_LOCK_NONE;
    s->path = strdup(options->path);
    ENSURE(s->path);
    s->max_bytes = options->max_size_bytes;
    s->reserve_bytes = reserve_of(s->max_bytes);
    enum status status = home_prepare(options->path, failure);
    if (status == STATUS_OK)
        status = home_lock(&s->lock, options->path, failure);
    if (status == STATUS_OK)
        status = open_env(s, options, failure);
    mdb_filehandle_t fd = -1;
    if (status == STATUS_OK) {
        mdb_env_get_fd(s->env, &fd);
        room_init(&s->room, fd, s->max_bytes);
        status = load(s, failure);
    }
    if (status == STATUS_OK)
        status = home_sync(options->path, failure);
    if (status != STATUS_OK) {
        store_close(s);
        return status;
    }
    *store = s;
    return STATUS_OK;
}

void store_close(struct store *s)
{
    ENSURE(!s->txn);
    for (uint32_t i = 0; i < s->slot_count; i++)
        directory_entry_clear(&s->slots[i].entry);
    free(s->slots);
    if (keeps_checkpoints(s)) {
        checkpoint_end(&s->checkpoint);
        checkpoint_remove(s->path, s->env, NULL); /* if it fails: it stays, and is still right */
    }
    if (s->env)
        mdb_env_close(s->env);
    free(s->path);
    home_unlock(&s->lock);
    free(s);
}

bool store_was_restored(const struct store *s)
{
    return s->was_restored;
}

enum status store_queues(struct store *s, bool (*visit)(void *arg, const struct store_queue *),
                         void *arg, struct failure *failure)
{
    (void)failure;
    ENSURE(!s->txn);
    for (uint32_t i = 0; i < s->slot_count; i++) {
        const struct directory_entry *e = &s->slots[i].entry;
        struct store_queue queue = {
            .id = e->id,
            .user = e->user,
            .vhost = e->vhost,
            .sealed = e->sealed,
            .sealed_len = e->sealed_len,
            .next_seq = e->next_seq,
            .messages = e->messages,
            .bytes = e->bytes,
            .rejected = e->rejected,
            .first_seq = s->slots[i].ends.first.seq,
            .last_seq = s->slots[i].ends.last.seq,
            .oldest_at_us = s->slots[i].ends.first.at_us,
            .newest_at_us = s->slots[i].ends.last.at_us,
        };
        if (!visit(arg, &queue))
            break;
    }
    return STATUS_OK;
}

/* ---- transactions ---- */

struct queue_slot *store_slot(struct store *s, uint32_t id)
{
    for (uint32_t i = 0; i < s->slot_count; i++)
        if (s->slots[i].entry.id == id)
            return &s->slots[i];
    return NULL;
}

void store_touch(struct queue_slot *slot)
{
    if (slot->dirty)
        return;
    slot->saved = slot->entry;
    slot->saved_ends = slot->ends;
    slot->dirty = true;
}

static void restore(struct store *s)
{
    for (uint32_t i = 0; i < s->slot_count; i++) {
        struct queue_slot *slot = &s->slots[i];
        if (slot->fresh) { /* always the last ones: LMDB has forgotten their databases too */
            for (uint32_t k = i; k < s->slot_count; k++)
                directory_entry_clear(&s->slots[k].entry);
            s->slot_count = i;
            return;
        }
        if (!slot->dirty)
            continue;
        if (slot->saved_sealed) {
            free(slot->entry.sealed);
            slot->saved.sealed = slot->saved_sealed;
            slot->saved.sealed_len = slot->saved_sealed_len;
            slot->saved_sealed = NULL;
        }
        slot->entry = slot->saved;
        slot->ends = slot->saved_ends;
        slot->dirty = false;
    }
}

static void keep(struct store *s)
{
    for (uint32_t i = 0; i < s->slot_count; i++) {
        struct queue_slot *slot = &s->slots[i];
        free(slot->saved_sealed);
        slot->saved_sealed = NULL;
        slot->dirty = slot->fresh = false;
    }
}

enum status store_begin(struct store *s, struct failure *failure)
{
    ENSURE(!s->txn);
    enum status status = count_room(s, failure);
    if (status == STATUS_OK && s->is_free_list_damaged)
        status = failure_set(failure, STATUS_DAMAGED, "the spool's list of free pages is damaged");
    if (status != STATUS_OK)
        return status;
    s->txn_bytes = 0;
    s->is_recounted = false;
    int error = mdb_txn_begin(s->env, NULL, 0, &s->txn);
    if (error)
        s->txn = NULL;
    return env_error(failure, error, "starting a transaction");
}

static int put_entry(struct store *s, const struct directory_entry *entry)
{
    uint8_t key_bytes[4];
    size_t len;
    directory_key(key_bytes, entry->id);
    uint8_t *value = directory_encode(entry, &len);
    MDB_val key = {sizeof key_bytes, key_bytes}, data = {len, value};
    int error = mdb_put(s->txn, s->queues, &key, &data, 0);
    free(value);
    return error;
}

static int commit(MDB_txn *txn)
{
    CRASH_POINT("before_commit");
    int error = mdb_txn_commit(txn);
    CRASH_POINT("after_commit");
    return error;
}

enum status store_commit(struct store *s, struct failure *failure)
{
    ENSURE(s->txn);
    int error = 0;
    for (uint32_t i = 0; i < s->slot_count && !error; i++) {
        if (!s->slots[i].dirty)
            continue;
        find_ends(s, &s->slots[i], s->txn);
        error = put_entry(s, &s->slots[i].entry);
    }
    if (error)
        mdb_txn_abort(s->txn);
    else
        error = commit(s->txn);
    s->txn = NULL;
    if (error)
        restore(s);
    else
        keep(s);
    return env_error(failure, error, "committing to the spool");
}

void store_abort(struct store *s)
{
    ENSURE(s->txn);
    mdb_txn_abort(s->txn);
    s->txn = NULL;
    restore(s);
}

enum status store_sync(struct store *s, struct failure *failure)
{
    ENSURE(!s->txn);
    return keeps_checkpoints(s) ? checkpoint_take(&s->checkpoint, s->env, failure) : STATUS_OK;
}

/* ---- queues ---- */

static struct queue_slot *find_by_name(struct store *s, const char *user, const char *vhost)
{
    for (uint32_t i = 0; i < s->slot_count; i++)
        if (strcmp(s->slots[i].entry.user, user) == 0 &&
            strcmp(s->slots[i].entry.vhost, vhost) == 0)
            return &s->slots[i];
    return NULL;
}

static uint32_t next_id(const struct store *s)
{
    uint32_t id = s->last_dropped;
    for (uint32_t i = 0; i < s->slot_count; i++)
        if (s->slots[i].entry.id > id)
            id = s->slots[i].entry.id;
    return id + 1;
}

static enum status make_queue(struct store *s, const char *user, const char *vhost,
                              struct queue_slot **made, struct failure *failure)
{
    uint32_t id = next_id(s);
    struct queue_slot *slot = add_slot(s);
    slot->fresh = true;
    slot->entry.id = id;
    slot->entry.next_seq = 1;
    slot->entry.user = strdup(user);
    slot->entry.vhost = strdup(vhost);
    ENSURE(slot->entry.user && slot->entry.vhost);
    enum status status = open_lists(s, slot, s->txn, failure);
    if (status != STATUS_OK) {
        directory_entry_clear(&slot->entry);
        s->slot_count--;
        return status;
    }
    *made = slot;
    return STATUS_OK;
}

static bool is_empty(MDB_txn *txn, const struct queue_slot *slot)
{
    MDB_stat waiting, rejected;
    return mdb_stat(txn, slot->waiting, &waiting) == 0 && waiting.ms_entries == 0 &&
           mdb_stat(txn, slot->rejected, &rejected) == 0 && rejected.ms_entries == 0;
}

static int drop(struct store *s, MDB_txn *txn, const struct queue_slot *slot, uint32_t highest)
{
    uint8_t key_bytes[4], value[4];
    directory_key(key_bytes, slot->entry.id);
    directory_key(value, highest);
    MDB_val key = {sizeof key_bytes, key_bytes}, data = {sizeof value, value};
    MDB_val name = {sizeof LAST_DROPPED - 1, LAST_DROPPED};
    int error = mdb_drop(txn, slot->waiting, 1);
    if (!error)
        error = mdb_drop(txn, slot->rejected, 1);
    if (!error)
        error = mdb_drop(txn, slot->parts, 1);
    if (!error)
        error = mdb_del(txn, s->queues, &key, NULL);
    return error ? error : mdb_put(txn, s->meta, &name, &data, 0);
}

enum status store_queue_drop(struct store *s, uint32_t id, struct failure *failure)
{
    ENSURE(!s->txn);
    MDB_txn *txn;
    struct queue_slot *slot = store_slot(s, id);
    if (!slot)
        return failure_set(failure, STATUS_NOT_FOUND, "there is no queue %u", id);
    if (s->is_free_list_damaged || slot->damage != QUEUE_SOUND)
        return failure_set(failure, STATUS_INVALID, "queue %u has damaged pages", id);
    int error = mdb_txn_begin(s->env, NULL, 0, &txn);
    if (error)
        return env_error(failure, error, "starting a transaction");
    if (!is_empty(txn, slot)) {
        mdb_txn_abort(txn);
        return failure_set(failure, STATUS_INVALID, "queue %u is not empty", id);
    }
    uint32_t highest = id > s->last_dropped ? id : s->last_dropped;
    error = drop(s, txn, slot, highest);
    CRASH_POINT("in_queue_drop");
    if (error)
        mdb_txn_abort(txn);
    else
        error = mdb_txn_commit(txn);
    if (error) { /* its databases are closed by now, and still there */
        env_error(failure, error, "forgetting a queue");
        return STATUS_FATAL;
    }
    s->last_dropped = highest;
    directory_entry_clear(&slot->entry);
    memmove(slot, slot + 1, (size_t)(s->slots + --s->slot_count - slot) * sizeof *slot);
    return STATUS_OK;
}

enum status store_queue_put(struct store *s, const char *user, const char *vhost,
                            const uint8_t *sealed, size_t sealed_len, uint32_t *id,
                            struct failure *failure)
{
    ENSURE(s->txn);
    if (strlen(user) > UINT16_MAX || strlen(vhost) > UINT16_MAX || sealed_len > UINT16_MAX)
        return failure_set(failure, STATUS_INVALID, "a login of that length cannot be stored");
    struct queue_slot *slot = find_by_name(s, user, vhost);
    if (!slot) {
        enum status status = make_queue(s, user, vhost, &slot, failure);
        if (status != STATUS_OK)
            return status;
    }
    store_touch(slot);
    uint8_t *copy = malloc(sealed_len + 1);
    ENSURE(copy);
    memcpy(copy, sealed, sealed_len);
    if (slot->saved_sealed || slot->fresh) {
        free(slot->entry.sealed);
    } else {
        slot->saved_sealed = slot->entry.sealed;
        slot->saved_sealed_len = slot->entry.sealed_len;
    }
    slot->entry.sealed = copy;
    slot->entry.sealed_len = sealed_len;
    *id = slot->entry.id;
    return STATUS_OK;
}

static enum status give_back(struct store *s, struct failure *failure)
{
    MDB_txn *txn;
    MDB_envinfo info;
    mdb_env_info(s->env, &info);
    uint64_t end = (info.me_last_pgno + 1) * s->page_bytes;
    if (s->is_reader_behind || s->is_free_list_damaged || end < s->used_bytes)
        return STATUS_OK; /* somebody still reads what is free */
    int error = env_begin(s->env, MDB_RDONLY, &txn);
    if (error)
        return env_error(failure, error, "looking for disk space to give back");
    enum status status = room_give_back(&s->room, txn, end - s->used_bytes, failure);
    mdb_txn_abort(txn);
    return status;
}

enum status store_rest(struct store *s, struct failure *failure)
{
    enum status status = store_sync(s, failure);
    if (status == STATUS_OK)
        status = store_recount(s, failure);
    return status == STATUS_OK ? give_back(s, failure) : status;
}

enum status store_probe(struct store *s, struct failure *failure)
{
    enum status status = pass_transaction(s, failure);
    return status == STATUS_OK ? store_sync(s, failure) : status;
}

bool store_has_room(struct store *s)
{
    uint64_t message = s->max_bytes / RESERVE_DIVISOR;
    if (message > ORDINARY_BYTES)
        message = ORDINARY_BYTES;
    return !s->is_free_list_damaged && store_fits(s, message) &&
           room_has(&s->room, s->used_bytes + s->held_bytes + message);
}

bool store_is_beyond(const struct store *s)
{
    return s->holder.pid && s->used_bytes + s->held_bytes > s->max_bytes - s->reserve_bytes;
}

struct store_holder store_holder(const struct store *s)
{
    return s->holder;
}

void store_usage(struct store *s, uint64_t *used_bytes, uint64_t *max_bytes)
{
    *used_bytes = s->used_bytes;
    *max_bytes = s->max_bytes;
}
