#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/crash_point.h"
#include "spool/env.h"
#include "spool/guard.h"
#include "spool/record.h"
#include "spool/store.h"
#include "spool/store_internal.h"
#include "spool/view.h"
#include "spool/walk.h"

enum {
    NODE_OVERHEAD_BYTES = 24,
    PAGE_HEADER_BYTES = 16,
    INLINE_NODE_MAX = 2000, /* about: longer values get pages of their own */
};

/* ---- writing ---- */

/* The queue with the highest id: its keys come behind those of all others. */
static bool is_behind_all(const struct store *s, uint32_t queue)
{
    const struct slot_list *lost = &s->lost;
    return queue == s->slots[s->slot_count - 1].entry.id &&
           (lost->count == 0 || lost->ids[lost->count - 1] < queue);
}

/* Behind all other keys LMDB fills a page before it takes the next; between others it splits one
 * that is full in halves, and these may never be filled. */
static uint64_t inline_cost(const struct store *s, uint64_t len, bool is_appended)
{
    uint64_t node = len + NODE_OVERHEAD_BYTES;
    if (is_appended)
        return node * 5 / 4;
    uint64_t on_a_half = (s->page_bytes - PAGE_HEADER_BYTES) / node / 2;
    return s->page_bytes / (on_a_half > 0 ? on_a_half : 1);
}

static uint64_t value_cost(const struct store *s, uint64_t len, bool is_appended)
{
    if (len <= INLINE_NODE_MAX)
        return inline_cost(s, len, is_appended);
    uint64_t pages = (len + PAGE_HEADER_BYTES + s->page_bytes - 1) / s->page_bytes;
    return pages * s->page_bytes + 4 * NODE_OVERHEAD_BYTES;
}

static uint64_t record_cost(const struct store *s, uint32_t queue, const struct record *r)
{
    bool is_appended = is_behind_all(s, queue);
    uint64_t cost = value_cost(s, record_size(r), is_appended);
    if (record_is_parted(r->body_size))
        cost += record_part_count(r->body_size) *
                value_cost(s, RECORD_PART_BYTES + RECORD_PART_CHECKSUM_BYTES, is_appended);
    return cost;
}

enum status store_room_for(struct store *s, uint64_t cost, struct failure *failure)
{
    ENSURE(s->txn);
    if (store_misplaced(s))
        return failure_set(failure, STATUS_FULL, "%s", store_misplaced(s));
    if (!space_fits(s, cost) && !s->is_recounted) { /* what was deleted since is not counted yet */
        enum status status = space_recount(s, failure);
        if (status != STATUS_OK)
            return status;
        s->is_recounted = true;
    }
    if (!space_fits(s, cost))
        return failure_set(failure, STATUS_FULL, "the spool has reached spool.max_size");
    if (!space_has_blocks(s, cost))
        return failure_set(failure, STATUS_FULL, "no space left on the spool's file system");
    return STATUS_OK;
}

static enum status take_room(struct store *s, uint32_t queue, const struct record *r,
                             struct failure *failure)
{
    uint64_t cost = record_cost(s, queue, r);
    enum status status = store_room_for(s, cost, failure);
    if (status == STATUS_OK) {
        s->used_bytes += cost;
        s->txn_bytes += cost;
    }
    return status;
}

/* Reads through a list of byte runs from wherever it stands. */
struct iov_reader {
    const struct iovec *iov;
    size_t count, offset;
};

static void iov_copy(struct iov_reader *from, uint8_t *out, size_t len)
{
    while (len > 0) {
        ENSURE(from->count > 0);
        size_t left = from->iov->iov_len - from->offset;
        size_t n = left < len ? left : len;
        if (n > 0)
            memcpy(out, (const uint8_t *)from->iov->iov_base + from->offset, n);
        out += n;
        len -= n;
        from->offset += n;
        if (from->offset == from->iov->iov_len) {
            from->iov++;
            from->count--;
            from->offset = 0;
        }
    }
}

/* None ever takes another's place. To append LMDB goes to the last page, which has to be the
 * queue's own: another's may be damaged. */
static int put(struct store *s, MDB_dbi dbi, uint32_t queue, MDB_val *key, MDB_val *data)
{
    int error = MDB_KEYEXIST;
    if (is_behind_all(s, queue))
        error = mdb_put(s->txn, dbi, key, data, MDB_RESERVE | MDB_APPEND);
    if (error == MDB_KEYEXIST) /* rejected ones come in any order */
        error = mdb_put(s->txn, dbi, key, data, MDB_RESERVE | MDB_NOOVERWRITE);
    return error;
}

static int put_parts(struct store *s, uint32_t queue, uint64_t seq, uint64_t body_size,
                     const struct iovec *body, size_t body_count)
{
    struct iov_reader reader = {body, body_count, 0};
    uint32_t parts = record_part_count(body_size);
    for (uint32_t part = 1; part <= parts; part++) {
        uint8_t key_bytes[RECORD_PART_KEY_BYTES];
        size_t len = record_part_size(body_size, part);
        record_part_key(key_bytes, queue, seq, part);
        MDB_val key = {sizeof key_bytes, key_bytes},
                data = {len + RECORD_PART_CHECKSUM_BYTES, NULL};
        int error = put(s, s->parts, queue, &key, &data);
        if (error)
            return error;
        uint8_t *value = data.mv_data;
        iov_copy(&reader, value + RECORD_PART_CHECKSUM_BYTES, len);
        record_part_seal(value, len, queue, seq, part);
    }
    return 0;
}

/* Writes a record, not its parts. */
static int put_head(struct store *s, MDB_dbi dbi, uint32_t queue, uint64_t seq,
                    const struct record *r, const struct iovec *body, size_t body_count)
{
    uint8_t key_bytes[RECORD_KEY_BYTES];
    record_key(key_bytes, queue, seq);
    MDB_val key = {sizeof key_bytes, key_bytes}, data = {record_size(r), NULL};
    int error = put(s, dbi, queue, &key, &data);
    if (!error)
        record_write(data.mv_data, queue, seq, r, body, body_count);
    return error;
}

static enum status put_record(struct store *s, MDB_dbi dbi, uint32_t queue, uint64_t seq,
                              const struct record *r, const struct iovec *body, size_t body_count,
                              struct failure *failure)
{
    int error = put_head(s, dbi, queue, seq, r, body, body_count);
    CRASH_POINT("in_append");
    if (!error && record_is_parted(r->body_size))
        error = put_parts(s, queue, seq, r->body_size, body, body_count);
    return env_error(failure, error, "appending to the spool");
}

static struct record record_of(const struct store_message *m)
{
    struct record r = {
        .kind = m->kind,
        .received_at_us = m->received_at_us,
        .method = m->method,
        .header = m->header,
    };
    for (size_t i = 0; i < m->body_count; i++)
        r.body_size += m->body[i].iov_len;
    return r;
}

uint64_t store_append_cost(const struct store *s, uint32_t queue,
                           const struct store_message *message)
{
    struct record r = record_of(message);
    return record_cost(s, queue, &r);
}

static uint64_t counted_bytes(const struct record *r)
{
    return r->method.iov_len + r->header.iov_len + r->body_size;
}

enum status store_append(struct store *s, uint32_t queue, const struct store_message *message,
                         uint64_t *seq, struct failure *failure)
{
    ENSURE(s->txn);
    struct queue_slot *slot = store_slot(s, queue);
    if (!slot)
        return failure_set(failure, STATUS_INVALID, "there is no queue %u", queue);
    if (slot->damage == QUEUE_TAILLESS)
        return failure_set(failure, STATUS_INVALID,
                           "queue %u has damaged pages at its end: nothing can be appended", queue);
    struct record r = record_of(message);
    enum status status = take_room(s, queue, &r, failure);
    if (status != STATUS_OK)
        return status;
    store_touch(s, slot);
    *seq = slot->entry.next_seq++;
    slot->entry.messages++;
    slot->entry.bytes += counted_bytes(&r);
    return put_record(s, s->messages, queue, *seq, &r, message->body, message->body_count, failure);
}

enum status store_append_rejected(struct store *s, uint32_t queue,
                                  const struct store_message *message,
                                  const struct rejection *rejection, uint64_t *seq,
                                  struct failure *failure)
{
    ENSURE(s->txn);
    struct queue_slot *slot = store_slot(s, queue);
    if (!slot)
        return failure_set(failure, STATUS_INVALID, "there is no queue %u", queue);
    if (slot->damage == QUEUE_TAILLESS)
        return failure_set(failure, STATUS_INVALID,
                           "queue %u has damaged pages at its end: nothing can be appended", queue);
    struct record r = record_of(message);
    r.is_rejected = true;
    r.rejection = *rejection;
    enum status status = take_room(s, queue, &r, failure);
    if (status != STATUS_OK)
        return status;
    store_touch(s, slot);
    *seq = slot->entry.next_seq++;
    slot->entry.rejected++;
    return put_record(s, s->rejected, queue, *seq, &r, message->body, message->body_count, failure);
}

struct lookup {
    const struct store *store;
    uint32_t queue;
    uint64_t seq;
    struct record *r;
    MDB_val *value;
    const char *what; /* is wrong with it; NULL: nothing */
};

static int look_up(void *arg)
{
    struct lookup *l = arg;
    uint8_t key_bytes[RECORD_KEY_BYTES];
    record_key(key_bytes, l->queue, l->seq);
    MDB_val key = {sizeof key_bytes, key_bytes};
    int error = mdb_get(l->store->txn, l->store->messages, &key, l->value);
    if (!error && record_read(l->value->mv_data, l->value->mv_size, l->queue, l->seq, l->r,
                              &l->what) == STATUS_OK)
        l->what = NULL;
    return error;
}

/* Looks a waiting record up that is to be deleted or moved; its pointers are into the map until the
 * next write. */
static enum status find_record(struct store *s, struct queue_slot *slot, uint64_t seq,
                               struct record *r, MDB_val *value, struct failure *failure)
{
    if (slot->damage != QUEUE_SOUND)
        return failure_set(failure, STATUS_INVALID,
                           "queue %u has damaged pages: message %llu stays in it", slot->entry.id,
                           (unsigned long long)seq);
    struct lookup l = {s, slot->entry.id, seq, r, value, NULL};
    int error = guard_run(look_up, &l);
    if (error == MDB_CORRUPTED || error == MDB_PAGE_NOTFOUND)
        store_note_damage(slot, QUEUE_HOLED);
    if (error)
        return env_error(failure, error, "looking for a message");
    return l.what ? failure_set(failure, STATUS_INVALID, "message %llu is damaged: %s",
                                (unsigned long long)seq, l.what)
                  : STATUS_OK;
}

static int delete_head(struct store *s, uint32_t queue, uint64_t seq)
{
    uint8_t key_bytes[RECORD_KEY_BYTES];
    record_key(key_bytes, queue, seq);
    MDB_val key = {sizeof key_bytes, key_bytes};
    return mdb_del(s->txn, s->messages, &key, NULL);
}

int store_delete_parts(struct store *s, uint32_t queue, uint64_t seq, uint32_t parts)
{
    int error = 0;
    for (uint32_t part = 1; part <= parts && !error; part++) {
        uint8_t key_bytes[RECORD_PART_KEY_BYTES];
        record_part_key(key_bytes, queue, seq, part);
        MDB_val key = {sizeof key_bytes, key_bytes};
        error = mdb_del(s->txn, s->parts, &key, NULL);
        if (error == MDB_NOTFOUND) /* a missing part is no reason to keep the rest */
            error = 0;
    }
    return error;
}

static void count_out(struct store *s, struct queue_slot *slot, const struct record *r)
{
    uint64_t bytes = counted_bytes(r);
    store_touch(s, slot);
    slot->entry.messages -= slot->entry.messages > 0;
    slot->entry.bytes -= bytes < slot->entry.bytes ? bytes : slot->entry.bytes;
}

enum status store_delete(struct store *s, uint32_t queue, uint64_t seq, struct failure *failure)
{
    ENSURE(s->txn);
    struct queue_slot *slot = store_slot(s, queue);
    if (!slot)
        return failure_set(failure, STATUS_INVALID, "there is no queue %u", queue);
    struct record r = {0};
    MDB_val value;
    enum status status = find_record(s, slot, seq, &r, &value, failure);
    if (status != STATUS_OK)
        return status;
    count_out(s, slot, &r);
    int error = delete_head(s, queue, seq);
    CRASH_POINT("in_delete");
    if (!error && r.parted)
        error = store_delete_parts(s, queue, seq, record_part_count(r.body_size));
    return env_error(failure, error, "deleting a message");
}

/* Writing moves pages: what stands in the record is copied first. Parts stay where they are. */
static enum status move_head(struct store *s, struct queue_slot *slot, uint64_t seq,
                             const struct record *found, const struct rejection *rejection,
                             uint8_t *copy, struct failure *failure)
{
    struct record r = *found;
    size_t inline_body = found->parted ? 0 : (size_t)found->body_size;
    r.method.iov_base = copy;
    r.header.iov_base = copy + r.method.iov_len;
    struct iovec body = {copy + r.method.iov_len + r.header.iov_len, inline_body};
    ENSURE(found->method.iov_base && found->header.iov_base);
    memcpy(r.method.iov_base, found->method.iov_base, r.method.iov_len);
    memcpy(r.header.iov_base, found->header.iov_base, r.header.iov_len);
    if (inline_body > 0)
        memcpy(body.iov_base, found->body, inline_body);
    r.is_rejected = true;
    r.rejection = *rejection;
    count_out(s, slot, found);
    slot->entry.rejected++;
    int error = delete_head(s, slot->entry.id, seq);
    CRASH_POINT("in_reject");
    if (!error)
        error = put_head(s, s->rejected, slot->entry.id, seq, &r, &body, inline_body > 0);
    return env_error(failure, error, "moving a message");
}

/* With them it may not fit where it was; and what a full disk still has is for deletions. */
static bool takes_words(struct store *s, const struct record *found,
                        const struct rejection *rejection)
{
    struct record r = *found;
    r.is_rejected = true;
    r.rejection = *rejection;
    uint64_t cost = value_cost(s, record_size(&r), false);
    if (!space_has_blocks(s, cost))
        return false;
    s->used_bytes += cost; /* until it is counted again */
    s->txn_bytes += cost;
    return true;
}

enum status store_reject(struct store *s, uint32_t queue, uint64_t seq,
                         const struct rejection *rejection, struct failure *failure)
{
    ENSURE(s->txn);
    struct queue_slot *slot = store_slot(s, queue);
    if (!slot)
        return failure_set(failure, STATUS_INVALID, "there is no queue %u", queue);
    struct record r = {0};
    MDB_val value = {0};
    enum status status = find_record(s, slot, seq, &r, &value, failure);
    if (status != STATUS_OK)
        return status;
    uint8_t *copy = malloc(value.mv_size);
    if (!copy)
        return failure_set(failure, STATUS_NO_MEMORY, "out of memory for a rejected message");
    struct rejection why = *rejection;
    if (!takes_words(s, &r, rejection))
        why.text_len = 0;
    status = move_head(s, slot, seq, &r, &why, copy, failure);
    free(copy);
    return status;
}

/* ---- reading ---- */

struct read_state {
    const struct store_visitor *visitor;
    struct queue_slot *slot;
    uint64_t last; /* number that was looked at */
};

static struct store_record shown(uint64_t seq, const struct record *r, const struct iovec *body,
                                 size_t body_count)
{
    return (struct store_record){
        .seq = seq,
        .kind = r->kind,
        .received_at_us = r->received_at_us,
        .method = r->method,
        .header = r->header,
        .body = body,
        .body_count = body_count,
        .body_size = r->body_size,
    };
}

static bool on_record(void *arg, uint64_t seq, const struct record *r, const struct iovec *body,
                      size_t body_count)
{
    const struct store_visitor *visitor = ((struct read_state *)arg)->visitor;
    struct store_record record = shown(seq, r, body, body_count);
    return visitor->visit(visitor->arg, &record);
}

static enum walk_choice on_choose(void *arg, uint64_t seq, const struct record *r)
{
    struct read_state *state = arg;
    const struct store_visitor *visitor = state->visitor;
    struct store_record record = shown(seq, r, NULL, 0);
    state->last = seq;
    switch (visitor->choose ? visitor->choose(visitor->arg, &record) : STORE_TAKE) {
    case STORE_PASS:
        return WALK_PASS;
    case STORE_STOP:
        return WALK_STOP;
    case STORE_TAKE:
        break;
    }
    return WALK_TAKE;
}

static bool on_damaged(void *arg, uint64_t seq, const char *what)
{
    struct read_state *state = arg;
    if (what == walk_pages_damaged || what == walk_pages_unsound)
        store_note_damage(state->slot, QUEUE_HOLED);
    if (what != walk_pages_unsound)
        state->visitor->damaged(state->visitor->arg, seq);
    return true;
}

enum status store_read(struct store *s, uint32_t queue, uint64_t after,
                       const struct store_visitor *visitor, struct failure *failure)
{
    ENSURE(!s->txn);
    struct queue_slot *slot = store_slot(s, queue);
    if (!slot)
        return failure_set(failure, STATUS_INVALID, "there is no queue %u", queue);
    MDB_txn *txn;
    int error = view_begin(s->env, &txn);
    if (error)
        return env_error(failure, error, "starting to read");
    struct read_state state = {visitor, slot, after + 1};
    struct walk_list list = {
        .records = s->messages,
        .parts = s->parts,
        .queue = queue,
        .bodies = true,
        .choose = on_choose,
        .tells_unsound = true,
    };
    error = page_map_find(txn, &list.map);
    if (!error) {
        store_look_around(slot, after + 1, txn, &list.map);
        error = walk_list(txn, list, after, on_record, on_damaged, &state);
    }
    if (!error)
        store_look_around(slot, state.last, txn, &list.map);
    view_end(txn);
    return env_error(failure, error, "reading the queue");
}
