#include "spool/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "spool/directory.h"
#include "spool/env.h"
#include "spool/record.h"
#include "spool/walk.h"

/* Happy path: begin, writes, commit. Counters of the queues are kept in memory and written to the
 * `queues` database with the commit that changes them.
 *
 * What can fail: a write (LMDB then refuses everything but an abort) or the commit; both restore
 * the counters as they were at begin. LMDB 0.9 panics after a failed meta page write: STATUS_FATAL,
 * and the owner opens the store again. */

enum {
    RESERVE_MIN_BYTES = 1024 * 1024,
    RESERVE_DIVISOR = 64, /* of max_size */
    NODE_OVERHEAD_BYTES = 24,
    INLINE_NODE_MAX = 2000, /* about: longer values get pages of their own */
    RECOUNT_MS = 100,
};

struct queue_slot {
    struct directory_entry entry;
    struct directory_entry saved; /* counters at begin (strings are not copied) */
    uint8_t *saved_sealed;
    size_t saved_sealed_len;
    MDB_dbi waiting, rejected;
    bool dirty;
    bool fresh; /* made in this transaction */
};

struct store {
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi meta, queues;
    int lock_fd;
    struct queue_slot *slots;
    uint32_t slot_count;

    uint64_t max_bytes;
    uint64_t used_bytes; /* as last counted, plus what was written since */
    uint64_t counted_ms;
    uint64_t page_bytes;
};

/* ---- opening ---- */

static enum status check_directory(const char *path, struct failure *failure)
{
    struct stat st;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return failure_set(failure, STATUS_IO, "cannot make the directory %s: %s", path,
                           strerror(errno));
    if (stat(path, &st) != 0)
        return failure_set(failure, STATUS_IO, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return failure_set(failure, STATUS_INVALID, "%s is not a directory", path);
    if (st.st_mode & 077)
        return failure_set(failure, STATUS_PERMISSION,
                           "%s is open to others; mend it with: chmod 700 %s", path, path);
    return STATUS_OK;
}

static enum status take_lock(struct store *s, const char *path, struct failure *failure)
{
    char name[4096];
    snprintf(name, sizeof name, "%s/lock", path);
    s->lock_fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0)
        return failure_set(failure, errno == EROFS || errno == EACCES ? STATUS_PERMISSION : STATUS_IO,
                           "%s: %s", name, strerror(errno));
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return STATUS_OK;
    return failure_set(failure, STATUS_IN_USE, "%s is in use by another amqpbuf", path);
}

static enum status open_databases(struct store *s, MDB_txn *txn, struct failure *failure)
{
    uint32_t version;
    enum status status = env_read_version(txn, &s->meta, &version, failure);
    if (status == STATUS_NOT_FOUND) {
        uint8_t value[4] = {0, 0, 0, SPOOL_FORMAT_VERSION};
        MDB_val key = {sizeof "version" - 1, "version"}, data = {sizeof value, value};
        int error = mdb_dbi_open(txn, "meta", MDB_CREATE, &s->meta);
        if (!error)
            error = mdb_put(txn, s->meta, &key, &data, 0);
        status = env_error(failure, error, "writing the format version");
    } else if (status == STATUS_OK && version > SPOOL_FORMAT_VERSION) {
        return failure_set(failure, STATUS_VERSION,
                           "the spool has format version %u, this amqpbuf knows up to %u", version,
                           SPOOL_FORMAT_VERSION);
    }
    if (status != STATUS_OK)
        return status;
    return env_error(failure, mdb_dbi_open(txn, "queues", MDB_CREATE, &s->queues),
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

static enum status open_lists(struct queue_slot *slot, MDB_txn *txn, struct failure *failure)
{
    char name[16];
    directory_database(name, 'q', slot->entry.id);
    int error = mdb_dbi_open(txn, name, MDB_CREATE, &slot->waiting);
    directory_database(name, 'r', slot->entry.id);
    if (!error)
        error = mdb_dbi_open(txn, name, MDB_CREATE, &slot->rejected);
    if (error == MDB_DBS_FULL)
        return failure_set(failure, STATUS_FULL, "more than %d queues in one spool",
                           ENV_DATABASES_MAX / 2 - 2);
    return env_error(failure, error, "opening a queue");
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
        status = open_lists(&s->slots[i], txn, failure);
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

static enum status recount(struct store *s, struct failure *failure)
{
    MDB_txn *txn;
    uint64_t pages = 0;
    int error = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
    if (error)
        return env_error(failure, error, "counting free pages");
    enum status status = env_used_pages(s->env, txn, &pages, &s->page_bytes, failure);
    mdb_txn_abort(txn);
    s->used_bytes = pages * s->page_bytes;
    s->counted_ms = now_ms();
    return status;
}

static enum status load(struct store *s, struct failure *failure)
{
    MDB_txn *txn;
    int dead;
    mdb_reader_check(s->env, &dead); /* a killed reader must not hold old pages back */
    int error = mdb_txn_begin(s->env, NULL, 0, &txn);
    if (error)
        return env_error(failure, error, "starting to read the spool");
    enum status status = open_databases(s, txn, failure);
    if (status == STATUS_OK)
        status = load_queues(s, txn, failure);
    if (status != STATUS_OK) {
        mdb_txn_abort(txn);
        return status;
    }
    error = mdb_txn_commit(txn);
    return error ? env_error(failure, error, "committing the first transaction")
                 : recount(s, failure);
}

enum status store_open(struct store **store, const struct store_options *options,
                       struct failure *failure)
{
    struct store *s = calloc(1, sizeof *s);
    ENSURE(s);
    s->lock_fd = -1;
    s->max_bytes = options->max_size_bytes;
    enum status status = check_directory(options->path, failure);
    if (status == STATUS_OK)
        status = take_lock(s, options->path, failure);
    if (status == STATUS_OK)
        status = env_open(&s->env, options->path, options->max_size_bytes,
                          options->sync == STORE_SYNC_LATER ? MDB_NOSYNC : 0, failure);
    if (status == STATUS_OK)
        status = load(s, failure);
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
    if (s->env)
        mdb_env_close(s->env);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    free(s);
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
        };
        if (!visit(arg, &queue))
            break;
    }
    return STATUS_OK;
}

/* ---- transactions ---- */

static struct queue_slot *slot_of(struct store *s, uint32_t id)
{
    for (uint32_t i = 0; i < s->slot_count; i++)
        if (s->slots[i].entry.id == id)
            return &s->slots[i];
    return NULL;
}

static void touch(struct queue_slot *slot)
{
    if (slot->dirty)
        return;
    slot->saved = slot->entry;
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
    if (now_ms() - s->counted_ms >= RECOUNT_MS) {
        enum status status = recount(s, failure);
        if (status != STATUS_OK)
            return status;
    }
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

enum status store_commit(struct store *s, struct failure *failure)
{
    ENSURE(s->txn);
    int error = 0;
    for (uint32_t i = 0; i < s->slot_count && !error; i++)
        if (s->slots[i].dirty)
            error = put_entry(s, &s->slots[i].entry);
    if (error)
        mdb_txn_abort(s->txn);
    else
        error = mdb_txn_commit(s->txn);
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
    return env_error(failure, mdb_env_sync(s->env, 1), "syncing the spool");
}

/* ---- writing ---- */

static uint64_t reserve_bytes(const struct store *s)
{
    uint64_t share = s->max_bytes / RESERVE_DIVISOR;
    return share > RESERVE_MIN_BYTES ? share : RESERVE_MIN_BYTES;
}

static uint64_t value_cost(const struct store *s, uint64_t len)
{
    if (len <= INLINE_NODE_MAX)
        return (len + NODE_OVERHEAD_BYTES) * 5 / 4; /* pages are not filled to the brim */
    uint64_t pages = (len + NODE_OVERHEAD_BYTES + s->page_bytes - 1) / s->page_bytes;
    return pages * s->page_bytes + 2 * NODE_OVERHEAD_BYTES;
}

static uint64_t record_cost(const struct store *s, const struct record *r)
{
    uint64_t cost = value_cost(s, record_size(r));
    if (record_is_parted(r->body_size))
        cost += record_part_count(r->body_size) *
                value_cost(s, RECORD_PART_BYTES + RECORD_PART_CHECKSUM_BYTES);
    return cost;
}

static enum status check_room(struct store *s, const struct record *r, struct failure *failure)
{
    uint64_t limit = s->max_bytes > reserve_bytes(s) ? s->max_bytes - reserve_bytes(s) : 0;
    uint64_t cost = record_cost(s, r);
    if (s->used_bytes + cost > limit)
        return failure_set(failure, STATUS_FULL, "the spool has reached spool.max_size");
    s->used_bytes += cost;
    return STATUS_OK;
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

static int put_parts(struct store *s, MDB_dbi dbi, uint32_t queue, uint64_t seq, uint64_t body_size,
                     const struct iovec *body, size_t body_count)
{
    struct iov_reader reader = {body, body_count, 0};
    uint32_t parts = record_part_count(body_size);
    for (uint32_t part = 1; part <= parts; part++) {
        uint8_t key_bytes[RECORD_PART_KEY_BYTES];
        size_t len = record_part_size(body_size, part);
        record_part_key(key_bytes, seq, part);
        MDB_val key = {sizeof key_bytes, key_bytes}, data = {len + RECORD_PART_CHECKSUM_BYTES, NULL};
        int error = mdb_put(s->txn, dbi, &key, &data, MDB_RESERVE);
        if (error)
            return error;
        uint8_t *value = data.mv_data;
        iov_copy(&reader, value + RECORD_PART_CHECKSUM_BYTES, len);
        record_part_seal(value, len, queue, seq, part);
    }
    return 0;
}

/* Writes a record and its parts at `seq`. */
static enum status put_record(struct store *s, MDB_dbi dbi, uint32_t queue, uint64_t seq,
                              const struct record *r, const struct iovec *body, size_t body_count,
                              struct failure *failure)
{
    uint8_t key_bytes[RECORD_KEY_BYTES];
    record_key(key_bytes, seq);
    MDB_val key = {sizeof key_bytes, key_bytes}, data = {record_size(r), NULL};
    int error = mdb_put(s->txn, dbi, &key, &data, MDB_RESERVE);
    if (!error) {
        record_write(data.mv_data, queue, seq, r, body, body_count);
        if (record_is_parted(r->body_size))
            error = put_parts(s, dbi, queue, seq, r->body_size, body, body_count);
    }
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

static uint64_t counted_bytes(const struct record *r)
{
    return r->method.iov_len + r->header.iov_len + r->body_size;
}

enum status store_append(struct store *s, uint32_t queue, const struct store_message *message,
                         uint64_t *seq, struct failure *failure)
{
    ENSURE(s->txn);
    struct queue_slot *slot = slot_of(s, queue);
    if (!slot)
        return failure_set(failure, STATUS_INVALID, "there is no queue %u", queue);
    struct record r = record_of(message);
    enum status status = check_room(s, &r, failure);
    if (status != STATUS_OK)
        return status;
    touch(slot);
    *seq = slot->entry.next_seq++;
    slot->entry.messages++;
    slot->entry.bytes += counted_bytes(&r);
    return put_record(s, slot->waiting, queue, *seq, &r, message->body, message->body_count,
                      failure);
}

enum status store_append_rejected(struct store *s, uint32_t queue,
                                  const struct store_message *message,
                                  const struct rejection *rejection, uint64_t *seq,
                                  struct failure *failure)
{
    ENSURE(s->txn);
    struct queue_slot *slot = slot_of(s, queue);
    if (!slot)
        return failure_set(failure, STATUS_INVALID, "there is no queue %u", queue);
    struct record r = record_of(message);
    r.is_rejected = true;
    r.rejection = *rejection;
    enum status status = check_room(s, &r, failure);
    if (status != STATUS_OK)
        return status;
    touch(slot);
    *seq = slot->entry.next_seq++;
    slot->entry.rejected++;
    return put_record(s, slot->rejected, queue, *seq, &r, message->body, message->body_count,
                      failure);
}

/* Looks a waiting record up; its pointers are into the map until the next write. */
static enum status find_record(struct store *s, const struct queue_slot *slot, uint64_t seq,
                               struct record *r, MDB_val *value, struct failure *failure)
{
    uint8_t key_bytes[RECORD_KEY_BYTES];
    record_key(key_bytes, seq);
    MDB_val key = {sizeof key_bytes, key_bytes};
    int error = mdb_get(s->txn, slot->waiting, &key, value);
    if (error)
        return env_error(failure, error, "looking for a message");
    const char *what;
    enum status status =
        record_read(value->mv_data, value->mv_size, slot->entry.id, seq, r, &what);
    if (status == STATUS_OK)
        return STATUS_OK;
    return failure_set(failure, STATUS_INVALID, "message %llu is damaged: %s",
                       (unsigned long long)seq, what);
}

static int delete_record(struct store *s, MDB_dbi dbi, uint64_t seq, uint32_t parts)
{
    uint8_t key_bytes[RECORD_PART_KEY_BYTES];
    record_key(key_bytes, seq);
    MDB_val key = {RECORD_KEY_BYTES, key_bytes};
    int error = mdb_del(s->txn, dbi, &key, NULL);
    for (uint32_t part = 1; part <= parts && !error; part++) {
        record_part_key(key_bytes, seq, part);
        key = (MDB_val){sizeof key_bytes, key_bytes};
        error = mdb_del(s->txn, dbi, &key, NULL);
        if (error == MDB_NOTFOUND) /* a missing part is no reason to keep the rest */
            error = 0;
    }
    return error;
}

static void count_out(struct queue_slot *slot, const struct record *r)
{
    uint64_t bytes = counted_bytes(r);
    touch(slot);
    slot->entry.messages -= slot->entry.messages > 0;
    slot->entry.bytes -= bytes < slot->entry.bytes ? bytes : slot->entry.bytes;
}

enum status store_delete(struct store *s, uint32_t queue, uint64_t seq, struct failure *failure)
{
    ENSURE(s->txn);
    struct queue_slot *slot = slot_of(s, queue);
    if (!slot)
        return failure_set(failure, STATUS_INVALID, "there is no queue %u", queue);
    struct record r;
    MDB_val value;
    enum status status = find_record(s, slot, seq, &r, &value, failure);
    if (status != STATUS_OK)
        return status;
    count_out(slot, &r);
    uint32_t parts = r.parted ? record_part_count(r.body_size) : 0;
    return env_error(failure, delete_record(s, slot->waiting, seq, parts), "deleting a message");
}

/* The bytes of a record and its parts, copied: writing moves pages. */
static enum status copy_body(struct store *s, const struct queue_slot *slot, uint64_t seq,
                             const struct record *r, uint8_t *out, struct failure *failure)
{
    if (!r->parted) {
        memcpy(out, r->body, r->body_size);
        return STATUS_OK;
    }
    uint32_t parts = record_part_count(r->body_size);
    for (uint32_t part = 1; part <= parts; part++) {
        uint8_t key_bytes[RECORD_PART_KEY_BYTES];
        size_t len = record_part_size(r->body_size, part);
        record_part_key(key_bytes, seq, part);
        MDB_val key = {sizeof key_bytes, key_bytes}, data;
        int error = mdb_get(s->txn, slot->waiting, &key, &data);
        if (error || data.mv_size != len + RECORD_PART_CHECKSUM_BYTES)
            return failure_set(failure, STATUS_INVALID, "message %llu lacks a part",
                               (unsigned long long)seq);
        memcpy(out, (uint8_t *)data.mv_data + RECORD_PART_CHECKSUM_BYTES, len);
        out += len;
    }
    return STATUS_OK;
}

static enum status move_record(struct store *s, struct queue_slot *slot, uint64_t seq,
                               const struct record *found, const struct rejection *rejection,
                               uint8_t *copy, struct failure *failure)
{
    struct record r = *found;
    memcpy(copy, r.method.iov_base, r.method.iov_len);
    memcpy(copy + r.method.iov_len, r.header.iov_base, r.header.iov_len);
    uint8_t *body_bytes = copy + r.method.iov_len + r.header.iov_len;
    enum status status = copy_body(s, slot, seq, found, body_bytes, failure);
    if (status != STATUS_OK)
        return status;
    r.method.iov_base = copy;
    r.header.iov_base = copy + r.method.iov_len;
    r.is_rejected = true;
    r.rejection = *rejection;
    struct iovec body = {body_bytes, (size_t)r.body_size};
    count_out(slot, found);
    slot->entry.rejected++;
    uint32_t parts = found->parted ? record_part_count(found->body_size) : 0;
    status = env_error(failure, delete_record(s, slot->waiting, seq, parts), "moving a message");
    if (status != STATUS_OK)
        return status;
    return put_record(s, slot->rejected, slot->entry.id, seq, &r, &body, r.body_size > 0, failure);
}

enum status store_reject(struct store *s, uint32_t queue, uint64_t seq,
                         const struct rejection *rejection, struct failure *failure)
{
    ENSURE(s->txn);
    struct queue_slot *slot = slot_of(s, queue);
    if (!slot)
        return failure_set(failure, STATUS_INVALID, "there is no queue %u", queue);
    struct record r;
    MDB_val value;
    enum status status = find_record(s, slot, seq, &r, &value, failure);
    if (status != STATUS_OK)
        return status;
    uint8_t *copy = malloc(counted_bytes(&r) + 1);
    if (!copy)
        return failure_set(failure, STATUS_NO_MEMORY, "out of memory for a rejected message");
    status = move_record(s, slot, seq, &r, rejection, copy, failure);
    free(copy);
    return status;
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
    uint32_t id = 0;
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
    enum status status = open_lists(slot, s->txn, failure);
    if (status != STATUS_OK) {
        directory_entry_clear(&slot->entry);
        s->slot_count--;
        return status;
    }
    *made = slot;
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
    touch(slot);
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

/* ---- reading ---- */

struct read_state {
    bool (*visit)(void *arg, const struct store_record *);
    void (*damaged)(void *arg, uint64_t seq);
    void *arg;
};

static bool on_record(void *arg, uint64_t seq, const struct record *r, const struct iovec *body,
                      size_t body_count)
{
    struct read_state *state = arg;
    struct store_record record = {
        .seq = seq,
        .kind = r->kind,
        .received_at_us = r->received_at_us,
        .method = r->method,
        .header = r->header,
        .body = body,
        .body_count = body_count,
        .body_size = r->body_size,
    };
    return state->visit(state->arg, &record);
}

static bool on_damaged(void *arg, uint64_t seq, const char *what)
{
    (void)what;
    struct read_state *state = arg;
    state->damaged(state->arg, seq);
    return true;
}

enum status store_read(struct store *s, uint32_t queue, uint64_t after,
                       bool (*visit)(void *arg, const struct store_record *),
                       void (*damaged)(void *arg, uint64_t seq), void *arg, struct failure *failure)
{
    ENSURE(!s->txn);
    struct queue_slot *slot = slot_of(s, queue);
    if (!slot)
        return failure_set(failure, STATUS_INVALID, "there is no queue %u", queue);
    MDB_txn *txn;
    int error = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
    if (error)
        return env_error(failure, error, "starting to read");
    struct read_state state = {visit, damaged, arg};
    error = walk_list(txn, slot->waiting, queue, after, true, on_record, on_damaged, &state);
    mdb_txn_abort(txn);
    return env_error(failure, error, "reading the queue");
}

void store_usage(struct store *s, uint64_t *used_bytes, uint64_t *max_bytes)
{
    *used_bytes = s->used_bytes;
    *max_bytes = s->max_bytes;
}
