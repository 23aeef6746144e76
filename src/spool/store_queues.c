#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "base/memory.h"
#include "spool/big_endian.h"
#include "spool/directory.h"
#include "spool/env.h"
#include "spool/lock.h"
#include "spool/record.h"
#include "spool/store.h"
#include "spool/store_internal.h"

/* The queues: their entries in memory, as committed or as the transaction at work leaves them.
 * There may be thousands, so nothing that is done for a batch looks at all of them. */

#define LAST_DROPPED "last_dropped" /* in `meta` */

static void add_id(struct slot_list *list, uint32_t id)
{
    if (list->count == list->capacity) {
        list->capacity = 2 * list->capacity + 64;
        list->ids = memory_grow(list->ids, list->capacity, sizeof *list->ids);
    }
    list->ids[list->count++] = id;
}

static void note_change(struct store *s, struct queue_slot *slot)
{
    if (!slot->is_changed)
        add_id(&s->changed, slot->entry.id);
    slot->is_changed = true;
}

/* Ids are given in ascending order: a new one goes behind all others. */
static struct queue_slot *add_slot(struct store *s, const struct directory_entry *entry)
{
    ENSURE(s->slot_count == 0 || s->slots[s->slot_count - 1].entry.id < entry->id);
    if (s->slot_count == s->slot_capacity) {
        s->slot_capacity = 2 * s->slot_capacity + 16;
        s->slots = memory_grow(s->slots, s->slot_capacity, sizeof *s->slots);
    }
    struct queue_slot *slot = &s->slots[s->slot_count++];
    *slot = (struct queue_slot){.entry = *entry};
    return slot;
}

struct queue_slot *store_slot(struct store *s, uint32_t id)
{
    uint32_t low = 0, high = s->slot_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (s->slots[middle].entry.id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < s->slot_count && s->slots[low].entry.id == id ? &s->slots[low] : NULL;
}

void store_free_queues(struct store *s)
{
    for (uint32_t i = 0; i < s->slot_count; i++)
        directory_entry_clear(&s->slots[i].entry);
    free(s->slots);
    free(s->touched.ids);
    free(s->changed.ids);
    free(s->lost.ids);
}

/* ---- loading ---- */

/* Queues that were dropped keep their ids to themselves. */
static int load_last_dropped(struct store *s, MDB_txn *txn)
{
    MDB_val key = {sizeof LAST_DROPPED - 1, LAST_DROPPED}, data;
    int error = mdb_get(txn, s->meta, &key, &data);
    if (!error && data.mv_size == 4)
        s->last_dropped = (uint32_t)big_endian_get(data.mv_data, 4);
    s->highest_id = s->last_dropped;
    return error == MDB_NOTFOUND ? 0 : error;
}

static void load_entry(struct store *s, struct directory_entry *entry)
{
    if (entry->id > s->highest_id)
        s->highest_id = entry->id;
    if (entry->lost)
        LOG(LOG_ERROR, "queue_entry_damaged", LOG_N("queue", entry->id), LOG_T("user", entry->user),
            LOG_T("vhost", entry->vhost),
            LOG_T("reason",
                  entry->lost & DIRECTORY_LOGIN_LOST
                      ? "whose its messages are cannot be read: they stay where they are, and "
                        "amqpbuf-inspect shows them under this number"
                      : "its counters cannot be read: its messages are counted"));
    if (entry->lost & DIRECTORY_LOGIN_LOST) {
        add_id(&s->lost, entry->id);
        directory_entry_clear(entry);
    } else {
        note_change(s, add_slot(s, entry));
    }
}

enum status store_load_queues(struct store *s, MDB_txn *txn, struct failure *failure)
{
    MDB_cursor *cursor;
    MDB_val key, data;
    int error = load_last_dropped(s, txn);
    if (!error)
        error = mdb_cursor_open(txn, s->queues, &cursor);
    if (error)
        return env_error(failure, error, "reading the queues");
    enum status status = STATUS_OK;
    while (status == STATUS_OK && (error = mdb_cursor_get(cursor, &key, &data, MDB_NEXT)) == 0) {
        struct directory_entry entry;
        status = directory_decode(&key, &data, &entry, failure);
        if (status == STATUS_OK)
            load_entry(s, &entry);
    }
    mdb_cursor_close(cursor);
    if (status == STATUS_OK && error != MDB_NOTFOUND)
        return env_error(failure, error, "reading the queues");
    return status;
}

/* ---- what is shown of them ---- */

static struct store_queue describe(const struct queue_slot *slot)
{
    const struct directory_entry *e = &slot->entry;
    return (struct store_queue){
        .id = e->id,
        .user = e->user,
        .vhost = e->vhost,
        .sealed = e->sealed,
        .sealed_len = e->sealed_len,
        .next_seq = e->next_seq,
        .messages = e->messages,
        .bytes = e->bytes,
        .rejected = e->rejected,
        .first_seq = slot->ends.first.seq,
        .last_seq = slot->ends.last.seq,
        .oldest_at_us = slot->ends.first.at_us,
        .newest_at_us = slot->ends.last.at_us,
    };
}

void store_queues(const struct store *s, bool (*visit)(void *arg, const struct store_queue *),
                  void *arg)
{
    ENSURE(!s->txn);
    for (uint32_t i = 0; i < s->slot_count; i++) {
        struct store_queue queue = describe(&s->slots[i]);
        if (!visit(arg, &queue))
            break;
    }
}

void store_changes(struct store *s, void (*visit)(void *arg, const struct store_queue *), void *arg)
{
    ENSURE(!s->txn);
    for (uint32_t i = 0; i < s->changed.count; i++) {
        struct queue_slot *slot = store_slot(s, s->changed.ids[i]);
        if (!slot)
            continue; /* dropped since */
        struct store_queue queue = describe(slot);
        slot->is_changed = false;
        visit(arg, &queue);
    }
    s->changed.count = 0;
}

/* ---- transactions ---- */

void store_touch(struct store *s, struct queue_slot *slot)
{
    if (slot->dirty)
        return;
    slot->saved = slot->entry;
    slot->saved_ends = slot->ends;
    slot->dirty = true;
    add_id(&s->touched, slot->entry.id);
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

int store_put_touched(struct store *s)
{
    int error = 0;
    for (uint32_t i = 0; i < s->touched.count && !error; i++) {
        struct queue_slot *slot = store_slot(s, s->touched.ids[i]);
        store_find_ends(s, slot, s->txn);
        error = put_entry(s, &slot->entry);
    }
    return error;
}

static void forget_saved(struct queue_slot *slot)
{
    free(slot->saved_sealed);
    slot->saved_sealed = NULL;
    slot->dirty = slot->fresh = false;
}

void store_keep_touched(struct store *s)
{
    for (uint32_t i = 0; i < s->touched.count; i++) {
        struct queue_slot *slot = store_slot(s, s->touched.ids[i]);
        forget_saved(slot);
        note_change(s, slot);
    }
    s->touched.count = 0;
}

static void restore(struct queue_slot *slot)
{
    if (slot->saved_sealed) {
        free(slot->entry.sealed);
        slot->saved.sealed = slot->saved_sealed;
        slot->saved.sealed_len = slot->saved_sealed_len;
        slot->saved_sealed = NULL;
    }
    slot->entry = slot->saved;
    slot->ends = slot->saved_ends;
    forget_saved(slot);
}

void store_restore_touched(struct store *s)
{
    while (s->slot_count > 0 && s->slots[s->slot_count - 1].fresh)
        directory_entry_clear(&s->slots[--s->slot_count].entry);
    for (uint32_t i = 0; i < s->touched.count; i++) {
        struct queue_slot *slot = store_slot(s, s->touched.ids[i]);
        if (slot)
            restore(slot);
    }
    s->touched.count = 0;
}

/* ---- made and dropped ---- */

/* Once for each login that RabbitMQ has accepted. */
static struct queue_slot *find_by_name(struct store *s, const char *user, const char *vhost)
{
    for (uint32_t i = 0; i < s->slot_count; i++)
        if (strcmp(s->slots[i].entry.user, user) == 0 &&
            strcmp(s->slots[i].entry.vhost, vhost) == 0)
            return &s->slots[i];
    return NULL;
}

static struct queue_slot *make_queue(struct store *s, const char *user, const char *vhost)
{
    struct directory_entry entry = {
        .id = ++s->highest_id,
        .next_seq = 1,
        .user = strdup(user),
        .vhost = strdup(vhost),
    };
    ENSURE(entry.user && entry.vhost);
    struct queue_slot *slot = add_slot(s, &entry);
    slot->fresh = true;
    store_look_at_pages(s, slot); /* what it will share with the queue before it */
    return slot;
}

enum status store_queue_put(struct store *s, const char *user, const char *vhost,
                            const uint8_t *sealed, size_t sealed_len, uint32_t *id,
                            struct failure *failure)
{
    ENSURE(s->txn);
    if (strlen(user) > UINT16_MAX || strlen(vhost) > UINT16_MAX || sealed_len > UINT16_MAX)
        return failure_set(failure, STATUS_INVALID, "a login of that length cannot be stored");
    struct queue_slot *slot = find_by_name(s, user, vhost);
    if (!slot)
        slot = make_queue(s, user, vhost);
    store_touch(s, slot);
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

/* The first key in a list that is the queue's; MDB_NOTFOUND if there is none. */
static int first_of(MDB_cursor *cursor, uint32_t queue, MDB_val *key)
{
    uint8_t from[RECORD_KEY_BYTES];
    record_key(from, queue, 0);
    *key = (MDB_val){sizeof from, from};
    int error = mdb_cursor_get(cursor, key, NULL, MDB_SET_RANGE);
    return error ? error : record_key_queue(key->mv_data) == queue ? 0 : MDB_NOTFOUND;
}

static int look_for_any(MDB_txn *txn, MDB_dbi list, uint32_t queue)
{
    MDB_cursor *cursor;
    MDB_val key;
    int error = mdb_cursor_open(txn, list, &cursor);
    if (error)
        return error;
    error = first_of(cursor, queue, &key);
    mdb_cursor_close(cursor);
    return error;
}

static bool is_empty(const struct store *s, MDB_txn *txn, uint32_t queue)
{
    return look_for_any(txn, s->messages, queue) == MDB_NOTFOUND &&
           look_for_any(txn, s->rejected, queue) == MDB_NOTFOUND;
}

/* What damaged records have left: nobody knew how many parts they had. */
static int drop_parts(const struct store *s, MDB_txn *txn, uint32_t queue)
{
    MDB_cursor *cursor;
    MDB_val key;
    int error = mdb_cursor_open(txn, s->parts, &cursor);
    if (error)
        return error;
    while ((error = first_of(cursor, queue, &key)) == 0 && (error = mdb_cursor_del(cursor, 0)) == 0)
        continue;
    mdb_cursor_close(cursor);
    return error == MDB_NOTFOUND ? 0 : error;
}

static int drop(const struct store *s, MDB_txn *txn, uint32_t queue, uint32_t highest)
{
    uint8_t key_bytes[4], value[4];
    directory_key(key_bytes, queue);
    directory_key(value, highest);
    MDB_val key = {sizeof key_bytes, key_bytes}, data = {sizeof value, value};
    MDB_val name = {sizeof LAST_DROPPED - 1, LAST_DROPPED};
    int error = drop_parts(s, txn, queue);
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
    int error = lock_begin(s->env, 0, &txn);
    if (error)
        return env_error(failure, error, "starting a transaction");
    if (!is_empty(s, txn, id)) {
        mdb_txn_abort(txn);
        return failure_set(failure, STATUS_INVALID, "queue %u is not empty", id);
    }
    uint32_t highest = id > s->last_dropped ? id : s->last_dropped;
    error = drop(s, txn, id, highest);
    CRASH_POINT("in_queue_drop");
    if (error)
        mdb_txn_abort(txn);
    else
        error = space_commit(s, txn);
    if (error)
        return env_error(failure, error, "forgetting a queue");
    s->last_dropped = highest;
    directory_entry_clear(&slot->entry);
    memmove(slot, slot + 1, (size_t)(s->slots + --s->slot_count - slot) * sizeof *slot);
    return STATUS_OK;
}
