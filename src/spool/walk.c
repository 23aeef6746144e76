#include "spool/walk.h"

#include <stdlib.h>
#include <string.h>

struct body_parts {
    struct iovec one;
    struct iovec *many;
    size_t capacity;
};

static bool make_room(struct body_parts *body, uint32_t parts)
{
    if (parts <= body->capacity)
        return true;
    struct iovec *many = realloc(body->many, parts * sizeof *many);
    if (!many)
        return false;
    body->many = many;
    body->capacity = parts;
    return true;
}

/* Looks the parts up in order. Returns what is wrong, or NULL. */
static const char *collect_parts(MDB_txn *txn, const struct walk_list *list, uint64_t seq,
                                 uint64_t body_size, struct body_parts *body)
{
    uint32_t parts = record_part_count(body_size);
    if (!make_room(body, parts))
        return "too large for memory";
    MDB_cursor *cursor;
    if (mdb_cursor_open(txn, list->parts, &cursor) != 0)
        return "its parts cannot be read";
    const char *what = NULL;
    for (uint32_t part = 1; part <= parts && !what; part++) {
        uint8_t key_bytes[RECORD_PART_KEY_BYTES];
        size_t len = record_part_size(body_size, part);
        record_part_key(key_bytes, seq, part);
        MDB_val key = {sizeof key_bytes, key_bytes}, data;
        int error = mdb_cursor_get(cursor, &key, &data, part == 1 ? MDB_SET_KEY : MDB_NEXT);
        if (error || key.mv_size != sizeof key_bytes ||
            memcmp(key.mv_data, key_bytes, sizeof key_bytes) != 0)
            what = "a part of the body is missing";
        else if (data.mv_size != len + RECORD_PART_CHECKSUM_BYTES)
            what = "a part of the body has another length";
        else if (!record_part_check(data.mv_data, len, list->queue, seq, part))
            what = "wrong checksum of a part of the body";
        else
            body->many[part - 1] =
                (struct iovec){(uint8_t *)data.mv_data + RECORD_PART_CHECKSUM_BYTES, len};
    }
    mdb_cursor_close(cursor);
    return what;
}

/* Takes a record apart. Returns what is wrong, or NULL. */
static const char *read_record(MDB_txn *txn, const struct walk_list *list, uint64_t seq,
                               const MDB_val *value, struct record *r, struct body_parts *body,
                               struct iovec **iov, size_t *count)
{
    const char *what;
    *iov = NULL;
    *count = 0;
    if (record_read(value->mv_data, value->mv_size, list->queue, seq, r, &what) != STATUS_OK)
        return what;
    if (!list->bodies)
        return NULL;
    if (r->parted) {
        what = collect_parts(txn, list, seq, r->body_size, body);
        *iov = body->many;
        *count = record_part_count(r->body_size);
        return what;
    }
    body->one = (struct iovec){(void *)r->body, (size_t)r->body_size};
    *iov = &body->one;
    *count = r->body_size > 0;
    return NULL;
}

static int walk(MDB_txn *txn, MDB_cursor *cursor, const struct walk_list *list, uint64_t after,
                struct body_parts *body, walk_visit visit, walk_damaged damaged, void *arg)
{
    uint8_t key_bytes[RECORD_KEY_BYTES];
    record_key(key_bytes, after + 1);
    MDB_val key = {sizeof key_bytes, key_bytes}, value;
    int error = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (; !error; error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        if (key.mv_size != RECORD_KEY_BYTES)
            return MDB_CORRUPTED;
        uint64_t seq = record_key_seq(key.mv_data);
        struct record r;
        struct iovec *iov;
        size_t count;
        const char *what = read_record(txn, list, seq, &value, &r, body, &iov, &count);
        if (what ? !damaged(arg, seq, what) : !visit(arg, seq, &r, iov, count))
            return 0;
    }
    return error == MDB_NOTFOUND ? 0 : error;
}

int walk_list(MDB_txn *txn, struct walk_list list, uint64_t after, walk_visit visit,
              walk_damaged damaged, void *arg)
{
    MDB_cursor *cursor;
    int error = mdb_cursor_open(txn, list.records, &cursor);
    if (error)
        return error;
    struct body_parts body = {0};
    error = walk(txn, cursor, &list, after, &body, visit, damaged, arg);
    free(body.many);
    mdb_cursor_close(cursor);
    return error;
}

struct walk_edge walk_edge(MDB_txn *txn, MDB_dbi dbi, uint32_t queue, bool last)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    struct walk_edge edge = {0};
    if (mdb_cursor_open(txn, dbi, &cursor) != 0)
        return edge;
    int error = mdb_cursor_get(cursor, &key, &value, last ? MDB_LAST : MDB_FIRST);
    if (!error && key.mv_size == RECORD_KEY_BYTES) {
        struct record r;
        const char *what;
        edge.seq = record_key_seq(key.mv_data);
        if (record_read(value.mv_data, value.mv_size, queue, edge.seq, &r, &what) == STATUS_OK)
            edge.at_us = r.received_at_us;
    }
    mdb_cursor_close(cursor);
    return edge;
}
