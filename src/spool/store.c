#include "spool/store.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "spool/big_endian.h"
#include "spool/directory.h"
#include "spool/env.h"
#include "spool/record.h"
#include "spool/store_internal.h"

/* Happy path: begin, writes, commit. Counters of the queues are kept in memory and written to the
 * `queues` database with the commit that changes them.
 *
 * What can fail: a write (LMDB then refuses everything but an abort) or the commit; both restore
 * the counters as they were at begin. LMDB 0.9 panics after a failed meta page write: STATUS_FATAL,
 * and the owner opens the store again. */

enum { BEYOND_MIN_BYTES = 64 * 1024 * 1024 };

#define LAST_DROPPED "last_dropped" /* in `meta` */

/* ---- opening ---- */

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
            error = env_write_version(txn, s->meta);
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

static enum status load(struct store *s, struct failure *failure)
{
    MDB_txn *txn;
    CRASH_POINT("before_load");
    enum status status = space_recount(s, failure);
    if (status == STATUS_OK)
        status = store_check_trees(s, failure);
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
        store_look_at_queue(s, &s->slots[i]);
    return space_recount(s, failure);
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
    s->reserve_bytes = space_reserve(s->max_bytes);
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
    if (store_keeps_checkpoints(s)) {
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
    enum status status = space_count(s, failure);
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
        store_find_ends(s, &s->slots[i], s->txn);
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
    return store_keeps_checkpoints(s) ? checkpoint_take(&s->checkpoint, s->env, failure)
                                      : STATUS_OK;
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

enum status store_rest(struct store *s, struct failure *failure)
{
    enum status status = store_sync(s, failure);
    if (status == STATUS_OK)
        status = space_recount(s, failure);
    return status == STATUS_OK ? space_give_back(s, failure) : status;
}

enum status store_probe(struct store *s, struct failure *failure)
{
    enum status status = space_pass(s, failure);
    return status == STATUS_OK ? store_sync(s, failure) : status;
}
