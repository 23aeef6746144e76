#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/crash_point.h"
#include "spool/env.h"
#include "spool/record.h"
#include "spool/store.h"
#include "spool/store_internal.h"
#include "spool/walk.h"

/* What a person does with the rejected list: put a message back, or drop it; and with a damaged
 * message that waits: drop it. */

/* A copy of a message: writing moves LMDB's pages. */
struct found {
    uint64_t seq, last;
    bool any, is_damaged, with_body, no_memory;
    struct store_message message;
    struct iovec body;
    struct rejection rejection;
    uint8_t *bytes; /* where all of it stands */
    uint64_t body_size;
};

static uint8_t *copy_run(uint8_t *at, struct iovec *run)
{
    if (run->iov_len > 0)
        memcpy(at, run->iov_base, run->iov_len);
    run->iov_base = at;
    return at + run->iov_len;
}

static void copy_message(struct found *f, const struct record *r, const struct iovec *body,
                         size_t body_count)
{
    f->bytes = malloc(r->method.iov_len + r->header.iov_len + (size_t)r->body_size +
                      r->rejection.text_len + 1);
    if (!f->bytes) {
        f->no_memory = true;
        return;
    }
    f->message = (struct store_message){
        .kind = r->kind,
        .received_at_us = r->received_at_us,
        .method = r->method,
        .header = r->header,
        .body = &f->body,
        .body_count = r->body_size > 0,
    };
    uint8_t *at = copy_run(copy_run(f->bytes, &f->message.method), &f->message.header);
    f->body = (struct iovec){at, (size_t)r->body_size};
    for (size_t i = 0; i < body_count; i++) {
        struct iovec run = body[i];
        at = copy_run(at, &run);
    }
    struct iovec words = {(void *)(uintptr_t)r->rejection.text, r->rejection.text_len};
    copy_run(at, &words);
    f->rejection = r->rejection;
    f->rejection.text = words.iov_base;
}

/* Takes the first it sees. */
static bool on_record(void *arg, uint64_t seq, const struct record *r, const struct iovec *body,
                      size_t body_count)
{
    struct found *f = arg;
    if (seq > f->last)
        return false;
    f->any = true;
    f->seq = seq;
    f->body_size = r->body_size;
    if (f->with_body)
        copy_message(f, r, body, body_count);
    return false;
}

static bool on_damaged(void *arg, uint64_t seq, const char *what)
{
    (void)what;
    struct found *f = arg;
    if (seq <= f->last) {
        f->any = f->is_damaged = true;
        f->seq = seq;
    }
    return false;
}

static enum status find_in(struct store *s, const struct queue_slot *slot, bool rejected,
                           uint64_t after, struct found *f, struct failure *failure)
{
    struct walk_list list = {
        .queue = slot->entry.id,
        .records = rejected ? s->rejected : s->messages,
        .rejected = rejected,
        .parts = s->parts,
        .bodies = f->with_body,
        .map = {.end = UINTPTR_MAX, .page_bytes = (size_t)s->page_bytes},
    };
    int error = walk_list(s->txn, list, after, on_record, on_damaged, f);
    if (error)
        return env_error(failure, error, "reading the rejected list");
    if (f->no_memory)
        return failure_set(failure, STATUS_NO_MEMORY, "out of memory for a rejected message");
    return f->any ? STATUS_OK
                  : failure_set(failure, STATUS_NOT_FOUND, "there is no such rejected message");
}

static enum status find(struct store *s, const struct queue_slot *slot, uint64_t after,
                        struct found *f, struct failure *failure)
{
    return find_in(s, slot, true, after, f, failure);
}

static enum status check_pages(const struct queue_slot *slot, struct failure *failure)
{
    return slot->damage == QUEUE_SOUND
               ? STATUS_OK
               : failure_set(failure, STATUS_INVALID,
                             "queue %u has damaged pages: nothing is taken out of it",
                             slot->entry.id);
}

/* Parts of a record whose size cannot be read stay: nobody knows how many there are. */
static enum status take_out(struct store *s, struct queue_slot *slot, const struct found *f,
                            struct failure *failure)
{
    if (check_pages(slot, failure) != STATUS_OK)
        return STATUS_INVALID;
    uint8_t key_bytes[RECORD_KEY_BYTES];
    record_key(key_bytes, slot->entry.id, f->seq);
    MDB_val key = {sizeof key_bytes, key_bytes};
    store_touch(s, slot);
    slot->entry.rejected -= slot->entry.rejected > 0;
    int error = mdb_del(s->txn, s->rejected, &key, NULL);
    if (!error && record_is_parted(f->body_size))
        error = store_delete_parts(s, slot->entry.id, f->seq, record_part_count(f->body_size));
    return env_error(failure, error, "taking a message out of the rejected list");
}

/* However many there are. */
static int delete_all_parts(struct store *s, uint32_t queue, uint64_t seq)
{
    uint8_t first[RECORD_PART_KEY_BYTES], found[RECORD_PART_KEY_BYTES];
    MDB_cursor *cursor = NULL;
    int error = mdb_cursor_open(s->txn, s->parts, &cursor);
    record_part_key(first, queue, seq, 1);
    while (!error) {
        MDB_val key = {sizeof first, first};
        error = mdb_cursor_get(cursor, &key, NULL, MDB_SET_RANGE);
        if (error || key.mv_size != sizeof found ||
            memcmp(key.mv_data, first, RECORD_KEY_BYTES) != 0)
            break;
        memcpy(found, key.mv_data, sizeof found); /* deleting moves pages */
        key.mv_data = found;
        error = mdb_del(s->txn, s->parts, &key, NULL);
    }
    if (cursor)
        mdb_cursor_close(cursor);
    return error == MDB_NOTFOUND ? 0 : error;
}

/* What it counts for, as far as its head can be believed; 0 if it cannot. */
static uint64_t guess_bytes(struct store *s, MDB_val *key)
{
    MDB_val value;
    struct record r;
    const char *what;
    if (mdb_get(s->txn, s->messages, key, &value) != 0 ||
        record_guess(value.mv_data, value.mv_size, &r, &what) != STATUS_OK)
        return 0;
    return r.method.iov_len + r.header.iov_len + r.body_size;
}

enum status store_discard_damaged(struct store *s, uint32_t queue, uint64_t seq,
                                  struct failure *failure)
{
    ENSURE(s->txn);
    struct queue_slot *slot = store_slot(s, queue);
    if (!slot)
        return failure_set(failure, STATUS_NOT_FOUND, "there is no queue %u", queue);
    if (check_pages(slot, failure) != STATUS_OK)
        return STATUS_INVALID;
    struct found f = {.last = seq, .with_body = true};
    enum status status = find_in(s, slot, false, seq - 1, &f, failure);
    free(f.bytes);
    if (status != STATUS_OK)
        return status;
    if (!f.is_damaged)
        return failure_set(
            failure, STATUS_INVALID,
            "there is no such rejected message: %llu waits for RabbitMQ, and is whole",
            (unsigned long long)seq);
    uint8_t key_bytes[RECORD_KEY_BYTES];
    record_key(key_bytes, queue, seq);
    MDB_val key = {sizeof key_bytes, key_bytes};
    uint64_t bytes = guess_bytes(s, &key);
    store_touch(s, slot);
    slot->entry.messages -= slot->entry.messages > 0;
    slot->entry.bytes -= bytes < slot->entry.bytes ? bytes : slot->entry.bytes;
    int error = mdb_del(s->txn, s->messages, &key, NULL);
    if (!error)
        error = delete_all_parts(s, queue, seq);
    return env_error(failure, error, "taking a damaged message out");
}

enum status store_copy_rejected(struct store *s, uint32_t queue, uint64_t after,
                                struct reader_record *record, uint8_t **bytes,
                                struct failure *failure)
{
    ENSURE(s->txn);
    struct queue_slot *slot = store_slot(s, queue);
    if (!slot)
        return failure_set(failure, STATUS_NOT_FOUND, "there is no queue %u", queue);
    struct found f = {.last = UINT64_MAX, .with_body = true};
    enum status status = find(s, slot, after, &f, failure);
    *bytes = f.bytes;
    *record = (struct reader_record){
        .queue = queue,
        .seq = f.seq,
        .kind = f.message.kind,
        .received_at_us = f.message.received_at_us,
        .method = f.message.method.iov_base,
        .method_len = f.message.method.iov_len,
        .header = f.message.header.iov_base,
        .header_len = f.message.header.iov_len,
        .body = f.body.iov_base,
        .body_size = f.body_size,
        .is_rejected = true,
        .rejection = f.rejection,
    };
    return status == STATUS_OK && f.is_damaged
               ? failure_set(failure, STATUS_INVALID, "rejected message %llu is damaged",
                             (unsigned long long)f.seq)
               : status;
}

uint64_t store_last_seq(struct store *s, uint32_t queue)
{
    const struct queue_slot *slot = store_slot(s, queue);
    return slot ? slot->entry.next_seq - 1 : 0;
}

enum status store_discard(struct store *s, uint32_t queue, uint64_t after, uint64_t last,
                          uint64_t *seq, struct failure *failure)
{
    ENSURE(s->txn);
    struct queue_slot *slot = store_slot(s, queue);
    if (!slot)
        return failure_set(failure, STATUS_NOT_FOUND, "there is no queue %u", queue);
    struct found f = {.last = last};
    enum status status = find(s, slot, after, &f, failure);
    if (status != STATUS_OK)
        return status;
    *seq = f.seq;
    return take_out(s, slot, &f, failure);
}

enum status store_retry(struct store *s, uint32_t queue, uint64_t after, uint64_t last,
                        uint64_t *seq, struct failure *failure)
{
    ENSURE(s->txn);
    struct queue_slot *slot = store_slot(s, queue);
    if (!slot)
        return failure_set(failure, STATUS_NOT_FOUND, "there is no queue %u", queue);
    struct found f = {.last = last, .with_body = true};
    uint64_t new_seq;
    enum status status = find(s, slot, after, &f, failure);
    if (status == STATUS_OK && f.is_damaged)
        status = failure_set(failure, STATUS_INVALID, "rejected message %llu is damaged",
                             (unsigned long long)f.seq);
    if (status == STATUS_OK)
        status = check_pages(slot, failure); /* or it would be in both lists */
    if (status == STATUS_OK)
        status = store_append(s, queue, &f.message, &new_seq, failure);
    CRASH_POINT("in_retry");
    if (status == STATUS_OK)
        status = take_out(s, slot, &f, failure);
    *seq = f.seq;
    free(f.bytes);
    return status;
}
