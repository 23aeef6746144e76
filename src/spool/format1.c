#include "spool/format1.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/memory.h"
#include "spool/big_endian.h"
#include "spool/env.h"
#include "spool/guard.h"
#include "spool/page.h"
#include "spool/view.h"
#include "spool/walk.h"

static const char letters[FORMAT1_KINDS] = {'b', 'r', 'q'};

enum { SEQ_BYTES = 8 };

/* next_seq, messages, bytes, rejected (8 each), lengths of user, vhost, sealed (2 each), these. */
enum { ENTRY_BYTES = 4 * 8 + 3 * 2 };

bool format1_entry(uint32_t id, const MDB_val *value, struct directory_entry *entry)
{
    if (value->mv_size < ENTRY_BYTES)
        return false;
    const uint8_t *at = value->mv_data;
    size_t user_len = (size_t)big_endian_get(at + 32, 2),
           vhost_len = (size_t)big_endian_get(at + 34, 2),
           sealed_len = (size_t)big_endian_get(at + 36, 2);
    if (user_len + vhost_len + sealed_len != value->mv_size - ENTRY_BYTES)
        return false;
    *entry = (struct directory_entry){
        .id = id,
        .next_seq = big_endian_get(at, 8),
        .messages = big_endian_get(at + 8, 8),
        .bytes = big_endian_get(at + 16, 8),
        .rejected = big_endian_get(at + 24, 8),
        .sealed_len = sealed_len,
    };
    at += ENTRY_BYTES;
    entry->user = strndup((const char *)at, user_len);
    entry->vhost = strndup((const char *)at + user_len, vhost_len);
    entry->sealed = malloc(sealed_len + 1);
    ENSURE(entry->user && entry->vhost && entry->sealed);
    memcpy(entry->sealed, at + user_len + vhost_len, sealed_len);
    return true;
}

/* ---- lists ---- */

static bool has_parts(const struct format1_list *list)
{
    return list->kind == FORMAT1_PARTS;
}

MDB_val format1_key(uint8_t bytes[FORMAT1_KEY_BYTES], const struct format1_list *list,
                    struct format1_place place)
{
    big_endian_put(bytes, place.seq, 8);
    big_endian_put(bytes + SEQ_BYTES, place.part, 4);
    return (MDB_val){has_parts(list) ? FORMAT1_KEY_BYTES : SEQ_BYTES, bytes};
}

int format1_open(MDB_txn *txn, struct format1_list *list)
{
    char name[16];
    snprintf(name, sizeof name, "%c/%u", letters[list->kind], list->queue);
    int error = guard_open(txn, name, 0, &list->dbi);
    if (error == MDB_NOTFOUND)
        list->dbi = 0;
    return error == MDB_NOTFOUND ? 0 : error;
}

struct reading {
    struct format1_batch *batch;
    struct format1_list *list;
    MDB_txn *txn;
    MDB_cursor *cursor;
    struct page_map map;
    struct format1_place place; /* of the item that the cursor stands on */
    uintptr_t page;
};

/* Keys rise; a page in a wrong place may even lead back to itself. */
static int take_key(struct reading *r, const MDB_val *key)
{
    struct format1_list *list = r->list;
    uint8_t bytes[FORMAT1_KEY_BYTES];
    MDB_val from = format1_key(bytes, list, list->from);
    if (!page_map_has(&r->map, key) || key->mv_size != from.mv_size ||
        memcmp(key->mv_data, from.mv_data, from.mv_size) < 0)
        return MDB_CORRUPTED;
    r->place.seq = big_endian_get(key->mv_data, 8);
    r->place.part = has_parts(list)
                        ? (uint32_t)big_endian_get((const uint8_t *)key->mv_data + SEQ_BYTES, 4)
                        : 0;
    if (page_of(&r->map, key) != r->page && !page_is_sound(&r->map, key))
        list->has_damage = true;
    r->page = page_of(&r->map, key);
    return 0;
}

static int seek(struct reading *r, MDB_val *key, MDB_val *value)
{
    uint8_t bytes[FORMAT1_KEY_BYTES];
    *key = format1_key(bytes, r->list, r->list->from);
    int error = mdb_cursor_get(r->cursor, key, value, MDB_SET_RANGE);
    return error ? error : take_key(r, key);
}

static int next(struct reading *r, MDB_val *key, MDB_val *value)
{
    int error = mdb_cursor_get(r->cursor, key, value, MDB_NEXT);
    return error ? error : take_key(r, key);
}

/* The next one is looked for behind it. */
static void pass(struct format1_list *list, struct format1_place place)
{
    list->from = has_parts(list) ? (struct format1_place){place.seq, place.part + 1}
                                 : (struct format1_place){place.seq + 1, 0};
}

/* A page that the disk cannot read ends this in the middle: the item is there when it is counted.
 */
static int add_item(struct reading *r, const MDB_val *value)
{
    struct format1_batch *batch = r->batch;
    if (batch->count == batch->capacity) {
        batch->capacity = 2 * batch->capacity + 1024;
        batch->items = memory_grow(batch->items, batch->capacity, sizeof *batch->items);
    }
    if (batch->bytes_capacity - batch->len < value->mv_size) {
        size_t capacity = batch->len + value->mv_size + batch->max_bytes;
        uint8_t *bytes = realloc(batch->bytes, capacity);
        if (!bytes)
            return ENOMEM;
        batch->bytes = bytes;
        batch->bytes_capacity = capacity;
    }
    memcpy(batch->bytes + batch->len, value->mv_data, value->mv_size);
    batch->items[batch->count++] = (struct format1_item){r->place, batch->len, value->mv_size};
    batch->len += value->mv_size;
    return 0;
}

bool format1_is_full(const struct format1_batch *batch)
{
    return batch->len >= batch->max_bytes;
}

/* Guarded. */
static int read_items(void *arg)
{
    struct reading *r = arg;
    MDB_val key, value;
    int error = seek(r, &key, &value);
    while (!error && !format1_is_full(r->batch)) {
        struct format1_place place = r->place;
        if (!page_map_has_value(&r->map, &key, &value))
            return MDB_CORRUPTED;
        error = add_item(r, &value);
        if (error)
            return error;
        pass(r->list, place);
        error = next(r, &key, &value);
    }
    return error;
}

/* To the page behind the last item: a deletion may write to it. Guarded. */
static int look_ahead(void *arg)
{
    struct reading *r = arg;
    MDB_val key, value;
    int error = 0;
    for (uintptr_t page = r->page; !error && r->page == page;)
        error = next(r, &key, &value);
    return error;
}

static int begin_reading(MDB_env *env, struct reading *r)
{
    int error = view_begin(env, &r->txn);
    if (error)
        return error;
    error = page_map_find(r->txn, &r->map);
    if (!error)
        error = mdb_cursor_open(r->txn, r->list->dbi, &r->cursor);
    if (error)
        view_end(r->txn);
    return error;
}

static void end_reading(struct reading *r)
{
    mdb_cursor_close(r->cursor);
    view_end(r->txn);
}

struct probing {
    MDB_env *env;
    struct format1_list list; /* a copy */
    struct reading reading;
};

static int read_one(void *arg)
{
    MDB_val key, value;
    return seek(arg, &key, &value);
}

static int probe(void *arg, uint64_t seq, uint64_t *found)
{
    struct probing *p = arg;
    p->list.from = (struct format1_place){seq, 0};
    p->reading = (struct reading){.list = &p->list};
    int error = begin_reading(p->env, &p->reading);
    if (error)
        return error;
    error = guard_run(read_one, &p->reading);
    *found = p->reading.place.seq;
    end_reading(&p->reading);
    return error;
}

/* What cannot be read is passed over, in steps of whole messages. */
static void pass_damage(MDB_env *env, struct format1_list *list)
{
    struct probing p = {.env = env, .list = *list};
    list->has_damage = true;
    list->from = (struct format1_place){walk_pass_damage(list->from.seq + 1, probe, &p), 0};
    list->is_at_end = list->from.seq == 0;
}

int format1_gather(MDB_env *env, struct format1_list *list, struct format1_batch *batch)
{
    int error = 0;
    while (!list->is_at_end && !format1_is_full(batch)) {
        struct reading r = {.batch = batch, .list = list};
        error = begin_reading(env, &r);
        if (error)
            return error;
        error = guard_run(read_items, &r);
        list->is_at_end = error == MDB_NOTFOUND;
        if (error == 0 && guard_is_damage(guard_run(look_ahead, &r)))
            list->has_damage = true;
        end_reading(&r);
        if (guard_is_damage(error))
            pass_damage(env, list);
        else if (error && error != MDB_NOTFOUND)
            return error;
    }
    return 0;
}
