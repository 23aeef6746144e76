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

/* The parts stand right behind their record. Returns what is wrong, or NULL. */
static const char *collect_parts(MDB_cursor *cursor, uint32_t queue, uint64_t seq,
                                 uint64_t body_size, struct body_parts *body)
{
    uint32_t parts = record_part_count(body_size);
    if (!make_room(body, parts))
        return "too large for memory";
    for (uint32_t part = 1; part <= parts; part++) {
        uint8_t key_bytes[RECORD_PART_KEY_BYTES];
        size_t len = record_part_size(body_size, part);
        MDB_val key, data;
        record_part_key(key_bytes, seq, part);
        if (mdb_cursor_get(cursor, &key, &data, MDB_NEXT) != 0 ||
            key.mv_size != sizeof key_bytes ||
            memcmp(key.mv_data, key_bytes, sizeof key_bytes) != 0)
            return "a part of the body is missing";
        if (data.mv_size != len + RECORD_PART_CHECKSUM_BYTES)
            return "a part of the body has another length";
        if (!record_part_check(data.mv_data, len, queue, seq, part))
            return "wrong checksum of a part of the body";
        body->many[part - 1] =
            (struct iovec){(uint8_t *)data.mv_data + RECORD_PART_CHECKSUM_BYTES, len};
    }
    return NULL;
}

/* Takes the record under the cursor apart. Returns what is wrong, or NULL. */
static const char *read_record(MDB_cursor *cursor, uint32_t queue, uint64_t seq,
                               const MDB_val *value, bool bodies, struct record *r,
                               struct body_parts *body, const struct iovec **iov, size_t *count)
{
    const char *what;
    *iov = NULL;
    *count = 0;
    if (record_read(value->mv_data, value->mv_size, queue, seq, r, &what) != STATUS_OK)
        return what;
    if (!bodies)
        return NULL;
    if (r->parted) {
        what = collect_parts(cursor, queue, seq, r->body_size, body);
        *iov = body->many;
        *count = record_part_count(r->body_size);
        return what;
    }
    body->one = (struct iovec){(void *)r->body, (size_t)r->body_size};
    *iov = &body->one;
    *count = r->body_size > 0;
    return NULL;
}

static int walk(MDB_cursor *cursor, uint32_t queue, uint64_t after, bool bodies,
                struct body_parts *body, walk_visit visit, walk_damaged damaged, void *arg)
{
    for (;;) {
        /* Every step looks for the next head: parts, also those of a damaged record, are passed. */
        uint8_t key_bytes[RECORD_KEY_BYTES];
        record_key(key_bytes, after + 1);
        MDB_val key = {sizeof key_bytes, key_bytes}, value;
        int error = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        if (error)
            return error == MDB_NOTFOUND ? 0 : error;
        if (key.mv_size < RECORD_KEY_BYTES)
            return MDB_CORRUPTED;
        uint64_t seq = record_key_seq(key.mv_data);
        after = seq;
        struct record r;
        const struct iovec *iov;
        size_t count;
        const char *what = key.mv_size != RECORD_KEY_BYTES
                               ? "parts of a body without their record"
                               : read_record(cursor, queue, seq, &value, bodies, &r, body, &iov,
                                             &count);
        if (what ? !damaged(arg, seq, what) : !visit(arg, seq, &r, iov, count))
            return 0;
    }
}

int walk_list(MDB_txn *txn, MDB_dbi dbi, uint32_t queue, uint64_t after, bool bodies,
              walk_visit visit, walk_damaged damaged, void *arg)
{
    MDB_cursor *cursor;
    int error = mdb_cursor_open(txn, dbi, &cursor);
    if (error)
        return error;
    struct body_parts body = {0};
    error = walk(cursor, queue, after, bodies, &body, visit, damaged, arg);
    free(body.many);
    mdb_cursor_close(cursor);
    return error;
}
