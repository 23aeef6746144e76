#include "amqpbuf/spool_reader.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/crash_point.h"
#include "spool/big_endian.h"
#include "spool/checkpoint.h"
#include "spool/directory.h"
#include "spool/env.h"
#include "spool/guard.h"
#include "spool/migration.h"
#include "spool/view.h"
#include "spool/walk.h"

/* Each batch is copied out inside a short read transaction, which ends before the first visit: a
 * visitor that is slow (a terminal, a pipe) never keeps the proxy from using old pages again. Nor
 * does Ctrl-Z: it takes effect when the transaction has ended. */

enum { TRIES_WITHOUT_LOCK = 200 };

struct reader {
    MDB_env *env;
    MDB_dbi meta, queues, messages, rejected, parts;
    bool is_unlocked; /* a proxy that may be there does not know of it */
    sigset_t signals; /* that were blocked before the transaction began */
};

/* ---- transactions ---- */

static void block_stop(struct reader *reader)
{
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTSTP);
    ENSURE(pthread_sigmask(SIG_BLOCK, &stop, &reader->signals) == 0);
}

static void allow_stop(const struct reader *reader)
{
    ENSURE(pthread_sigmask(SIG_SETMASK, &reader->signals, NULL) == 0);
}

static int begin(struct reader *reader, MDB_txn **txn)
{
    block_stop(reader);
    int error = view_begin(reader->env, txn);
    if (error == MDB_MAP_RESIZED) { /* the proxy was started with a larger map */
        error = mdb_env_set_mapsize(reader->env, 0);
        if (!error)
            error = view_begin(reader->env, txn);
    }
    if (error)
        allow_stop(reader);
    return error;
}

static void end(struct reader *reader, MDB_txn *txn)
{
    view_end(txn);
    allow_stop(reader);
}

static int commit(struct reader *reader, MDB_txn *txn)
{
    int error = view_commit(txn);
    allow_stop(reader);
    return error;
}

/* ---- opening ---- */

struct opening {
    struct reader *reader;
    MDB_txn *txn;
    uint32_t version;
    enum status status;
    struct failure *failure;
};

static int open_databases(void *arg)
{
    struct opening *o = arg;
    struct reader *r = o->reader;
    o->status = env_read_version(o->txn, &r->meta, &o->version, o->failure);
    if (o->status != STATUS_OK || o->version != SPOOL_FORMAT_VERSION)
        return 0;
    int error = guard_open(o->txn, "queues", 0, &r->queues);
    if (!error)
        error = guard_open(o->txn, "messages", 0, &r->messages);
    if (!error)
        error = guard_open(o->txn, "rejected", 0, &r->rejected);
    if (!error)
        error = guard_open(o->txn, "parts", 0, &r->parts);
    return error == MDB_NOTFOUND ? MDB_CORRUPTED : error; /* its name is damaged */
}

static enum status check_version(struct reader *reader, struct failure *failure)
{
    struct opening o = {.reader = reader, .failure = failure};
    int error = begin(reader, &o.txn);
    if (error)
        return env_error(failure, error, "starting to read");
    error = guard_run(open_databases, &o);
    enum status status = error ? env_error(failure, error, "opening the queues") : o.status;
    MDB_txn *txn = o.txn;
    uint32_t version = o.version;
    if (status == STATUS_OK)
        status = migration_check(txn, version, failure);
    if (status == STATUS_NOT_FOUND)
        status = failure_set(failure, STATUS_NO_SPOOL, "this LMDB environment is not a spool");
    if (status == STATUS_OK)
        return env_error(failure, commit(reader, txn), "opening the queues");
    end(reader, txn);
    return status;
}

static bool has_lock_file(const char *path)
{
    char name[4096];
    snprintf(name, sizeof name, "%s/lock.mdb", path);
    return access(name, F_OK) == 0;
}

static bool is_read_only(const char *path)
{
    struct statvfs fs;
    return statvfs(path, &fs) == 0 && (fs.f_flag & ST_RDONLY);
}

enum status reader_open(struct reader **out, const char *path, struct failure *failure)
{
    if (checkpoint_is_due(path))
        return failure_set(failure, STATUS_DAMAGED,
                           "the machine went down while spool.sync was interval, and the spool is "
                           "not whole until amqpbuf has started once (if this is a copy of another "
                           "machine's: remove %s/checkpoint)",
                           path);
    struct reader *reader = calloc(1, sizeof *reader);
    ENSURE(reader);
    /* A copy without a lock file, or a read-only file system, where LMDB locks nothing and says
     * nothing of it. */
    reader->is_unlocked = !has_lock_file(path) || is_read_only(path);
    enum status status = env_open(&reader->env, path, 0,
                                  MDB_RDONLY | (reader->is_unlocked ? MDB_NOLOCK : 0), failure);
    if (status == STATUS_PERMISSION && !reader->is_unlocked) {
        reader->is_unlocked = true;
        status = env_open(&reader->env, path, 0, MDB_RDONLY | MDB_NOLOCK, failure);
    }
    if (status == STATUS_OK)
        status = check_version(reader, failure);
    if (status != STATUS_OK) {
        reader_close(reader);
        return status;
    }
    *out = reader;
    return STATUS_OK;
}

void reader_close(struct reader *reader)
{
    if (reader->env)
        env_close(reader->env);
    free(reader);
}

/* ---- without a lock ---- */

/* On a read-only file system the proxy does not know of this reader, and may use pages again that
 * it reads. It cannot have done that before its second commit since: what was read by then stands,
 * and the rest is read again. */
static bool still_stands(const struct reader *reader, size_t txnid)
{
    MDB_envinfo info;
    if (!reader->is_unlocked)
        return true;
    mdb_env_info(reader->env, &info);
    return info.me_last_txnid <= txnid + 1;
}

static int changes_too_fast(struct failure *failure)
{
    failure_set(failure, STATUS_IN_USE,
                "the spool is on a read-only file system and changes too fast to be read without a "
                "lock: mount it for writing, or copy it");
    return MDB_BAD_TXN;
}

/* ---- queues ---- */

struct queue_look {
    struct reader *reader;
    MDB_txn *txn;
    MDB_cursor *cursor;
    uint32_t after;
    struct directory_entry *entry;
    struct failure *failure;
};

static int read_entry(void *arg)
{
    struct queue_look *look = arg;
    uint8_t key_bytes[4];
    directory_key(key_bytes, look->after + 1);
    MDB_val key = {sizeof key_bytes, key_bytes}, value;
    int error = mdb_cursor_get(look->cursor, &key, &value, MDB_SET_RANGE);
    if (!error && directory_decode(&key, &value, look->entry, look->failure) != STATUS_OK)
        error = MDB_CORRUPTED;
    return error;
}

/* The next queue after `after`, with its edges, in two short transactions: after damage the first
 * would say nothing more. */
static int look_at_next(struct queue_look *look, struct walk_edge edges[2], size_t *txnid)
{
    struct reader *reader = look->reader;
    int error = begin(reader, &look->txn);
    if (error)
        return error;
    *txnid = mdb_txn_id(look->txn);
    error = mdb_cursor_open(look->txn, reader->queues, &look->cursor);
    if (!error) {
        error = guard_run(read_entry, look);
        mdb_cursor_close(look->cursor);
    }
    end(reader, look->txn);
    MDB_txn *txn;
    if (error || begin(reader, &txn) != 0)
        return error;
    struct walk_list list = {.records = reader->messages, .queue = look->entry->id};
    if (page_map_find(txn, &list.map) == 0) {
        walk_edge(txn, &list, false, &edges[0]);
        walk_edge(txn, &list, true, &edges[1]);
    }
    end(reader, txn);
    return 0;
}

static int next_queue(struct reader *reader, uint32_t after, struct directory_entry *entry,
                      struct walk_edge edges[2], struct failure *failure)
{
    struct queue_look look = {.reader = reader, .after = after, .entry = entry, .failure = failure};
    for (unsigned tries = 0; tries < TRIES_WITHOUT_LOCK; tries++) {
        size_t txnid = 0;
        int error = look_at_next(&look, edges, &txnid);
        if (still_stands(reader, txnid))
            return error;
        directory_entry_clear(entry);
    }
    return changes_too_fast(failure);
}

static const char *damage_text(const struct directory_entry *entry)
{
    if (entry->lost & DIRECTORY_LOGIN_LOST)
        return "its entry is damaged: whose its messages are cannot be read";
    if (entry->lost & DIRECTORY_COUNTERS_LOST)
        return "its counters are damaged: amqpbuf counts its messages when it starts";
    return NULL;
}

enum status reader_queues(struct reader *reader,
                          bool (*visit)(void *arg, const struct reader_queue *), void *arg,
                          struct failure *failure)
{
    uint32_t after = 0;
    for (bool more = true; more;) {
        struct directory_entry entry = {0};
        struct walk_edge edges[2] = {0};
        int error = next_queue(reader, after, &entry, edges, failure);
        if (error == MDB_NOTFOUND)
            return STATUS_OK;
        if (error == MDB_BAD_TXN)
            return STATUS_IN_USE;
        if (error)
            return env_error(failure, error, "reading the queues");
        after = entry.id;
        struct reader_queue queue = {
            .id = entry.id,
            .user = entry.user,
            .vhost = entry.vhost,
            .messages = entry.messages,
            .bytes = entry.bytes,
            .first_seq = edges[0].seq,
            .last_seq = edges[1].seq,
            .oldest_at_us = edges[0].at_us,
            .newest_at_us = edges[1].at_us,
            .next_seq = entry.next_seq,
            .rejected = entry.rejected,
            .damage = damage_text(&entry),
        };
        more = visit(arg, &queue);
        directory_entry_clear(&entry);
    }
    return STATUS_OK;
}

/* ---- records ---- */

struct item {
    struct reader_record record;
    const char *damage; /* NULL: it is sound */
    uint8_t *bytes;     /* method, header, body, text */
};

struct batch {
    struct item items[READER_BATCH_RECORDS];
    size_t count, bytes;
    uint32_t queue;
    bool bodies, full, no_memory;
};

static uint8_t *append(uint8_t **at, const void *bytes, size_t len)
{
    uint8_t *begin_at = *at;
    if (len > 0)
        memcpy(begin_at, bytes, len);
    *at += len;
    return begin_at;
}

static bool copy_item(struct batch *batch, uint64_t seq, const struct record *r,
                      const struct iovec *body, size_t body_count)
{
    size_t body_len = batch->bodies ? (size_t)r->body_size : 0;
    size_t len = r->method.iov_len + r->header.iov_len + body_len + r->rejection.text_len;
    uint8_t *at = malloc(len + 1);
    if (!at) {
        batch->no_memory = true;
        return false;
    }
    struct item *item = &batch->items[batch->count++];
    *item = (struct item){.bytes = at};
    item->record = (struct reader_record){
        .queue = batch->queue,
        .seq = seq,
        .kind = r->kind,
        .received_at_us = r->received_at_us,
        .method_len = r->method.iov_len,
        .header_len = r->header.iov_len,
        .body_size = r->body_size,
        .is_rejected = r->is_rejected,
        .rejection = r->rejection,
    };
    item->record.method = append(&at, r->method.iov_base, r->method.iov_len);
    item->record.header = append(&at, r->header.iov_base, r->header.iov_len);
    if (batch->bodies) {
        item->record.body = at;
        for (size_t i = 0; i < body_count; i++)
            append(&at, body[i].iov_base, body[i].iov_len);
    }
    item->record.rejection.text =
        (const char *)append(&at, r->rejection.text, r->rejection.text_len);
    batch->bytes += len;
    return true;
}

static bool batch_is_full(struct batch *batch)
{
    batch->full = batch->count == READER_BATCH_RECORDS || batch->bytes >= READER_BATCH_BYTES;
    return batch->full;
}

static bool on_record(void *arg, uint64_t seq, const struct record *r, const struct iovec *body,
                      size_t body_count)
{
    struct batch *batch = arg;
    return copy_item(batch, seq, r, body, body_count) && !batch_is_full(batch);
}

static bool on_damaged(void *arg, uint64_t seq, const char *what)
{
    struct batch *batch = arg;
    batch->items[batch->count++] = (struct item){.record.seq = seq, .damage = what};
    return !batch_is_full(batch);
}

static void free_batch(struct batch *batch)
{
    for (size_t i = 0; i < batch->count; i++)
        free(batch->items[i].bytes);
    *batch = (struct batch){.queue = batch->queue, .bodies = batch->bodies};
}

static int try_batch(struct reader *reader, MDB_dbi records, uint64_t after, struct batch *batch,
                     size_t *txnid)
{
    MDB_txn *txn;
    int error = begin(reader, &txn);
    if (error)
        return error;
    *txnid = mdb_txn_id(txn);
    struct walk_list list = {
        .records = records,
        .rejected = records == reader->rejected,
        .parts = reader->parts,
        .queue = batch->queue,
        .bodies = batch->bodies,
    };
    error = page_map_find(txn, &list.map);
    CRASH_POINT("in_read");
    if (!error)
        error = walk_list(txn, list, after, on_record, on_damaged, batch);
    end(reader, txn);
    return error;
}

static int read_batch(struct reader *reader, uint64_t after, unsigned flags, struct batch *batch,
                      struct failure *failure)
{
    MDB_dbi records = flags & READER_REJECTED ? reader->rejected : reader->messages;
    for (unsigned tries = 0; tries < TRIES_WITHOUT_LOCK; tries++) {
        size_t txnid = 0;
        int error = try_batch(reader, records, after, batch, &txnid);
        if (still_stands(reader, txnid))
            return error;
        free_batch(batch);
    }
    return changes_too_fast(failure);
}

enum status reader_records(struct reader *reader, uint32_t queue, uint64_t after, unsigned flags,
                           bool (*visit)(void *arg, const struct reader_record *),
                           void (*damaged)(void *arg, uint32_t queue, uint64_t seq,
                                           const char *what),
                           void *arg, struct failure *failure)
{
    struct batch *batch = malloc(sizeof *batch);
    ENSURE(batch);
    bool more = true;
    int error = 0;
    while (more) {
        *batch = (struct batch){.queue = queue, .bodies = flags & READER_BODIES};
        error = read_batch(reader, after, flags, batch, failure);
        more = batch->full && !error && !batch->no_memory;
        bool wanted = true;
        for (size_t i = 0; i < batch->count; i++) {
            struct item *item = &batch->items[i];
            after = item->record.seq;
            if (wanted && item->damage)
                damaged(arg, queue, item->record.seq, item->damage);
            else if (wanted)
                wanted = visit(arg, &item->record);
            free(item->bytes);
        }
        more = more && wanted;
    }
    bool no_memory = batch->no_memory;
    free(batch);
    if (no_memory)
        return failure_set(failure, STATUS_NO_MEMORY, "out of memory for message %llu",
                           (unsigned long long)after + 1);
    if (error == MDB_BAD_TXN)
        return STATUS_IN_USE;
    return env_error(failure, error, "reading the queue");
}

void reader_usage(struct reader *reader, uint64_t *used_bytes, uint64_t *max_bytes)
{
    MDB_envinfo info;
    MDB_txn *txn;
    struct env_pages pages;
    mdb_env_info(reader->env, &info);
    *max_bytes = info.me_mapsize;
    *used_bytes = 0;
    if (begin(reader, &txn) != 0)
        return;
    MDB_val key = {sizeof ENV_MAX_SIZE - 1, ENV_MAX_SIZE}, value;
    if (mdb_get(txn, reader->meta, &key, &value) == 0 && value.mv_size == 8)
        *max_bytes = big_endian_get(value.mv_data, 8);
    if (env_count_pages(reader->env, txn, &pages, NULL) == STATUS_OK)
        *used_bytes = pages.used * pages.bytes;
    end(reader, txn);
}
