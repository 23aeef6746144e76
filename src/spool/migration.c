#include "spool/migration.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "amqpbuf/spool_format.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "base/service.h"
#include "spool/big_endian.h"
#include "spool/directory.h"
#include "spool/env.h"
#include "spool/format1.h"
#include "spool/guard.h"
#include "spool/lock.h"
#include "spool/record.h"
#include "spool/view.h"

/* Happy path: the lists of format 1 are gone through by queue, and of each queue the parts, the
 * rejected list, what waits. A step gathers records of one or more lists in read transactions, and
 * then, in one that writes, puts them into the databases of format 2, deletes them from the old
 * list, drops a list that has become empty, gives a queue that is done its new entry, and writes
 * how far it has come. Ids and numbers rise, so that all is appended.
 *
 * What can fail: a commit, with the disk full; then nothing of the step has happened. A damaged
 * page: what can be read is copied, and the old list stays where it is, because LMDB cannot delete
 * there without harm. A damaged record is moved as it is. */

enum {
    STEP_BYTES = 4 * 1024 * 1024,
    STEP_LISTS = 48, /* open at the same time: see ENV_DATABASES_MAX */
    TOLD_MS = 5000,
    STEP_MAX_MS = 120000, /* longer than any step on a disk that works */
};

#define PROGRESS "migration" /* in `meta`, while it is not done */

/* All that comes before it is done. */
struct progress {
    uint32_t queue, list;               /* at work; 0: no queue yet */
    struct format1_place from;          /* in that list */
    bool has_damage;                    /* the list: nothing is deleted from it */
    uint64_t messages, bytes, rejected; /* of the queue, as moved */
};

enum { PROGRESS_BYTES = 4 + 4 + 8 + 4 + 4 + 3 * 8 };

struct step {
    struct format1_list lists[STEP_LISTS];
    size_t ends[STEP_LISTS]; /* of a list's items in the batch; the next one's begin there */
    unsigned count;
    struct format1_batch batch;
};

struct migration {
    MDB_env *env;
    MDB_dbi meta, queues;
    MDB_dbi target[FORMAT1_KINDS];
    struct progress progress;
    struct step step;
    uint64_t moved, total, told_ms, started_ms;
};

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- how far it is ---- */

static int put_progress(MDB_txn *txn, MDB_dbi meta, const struct progress *p)
{
    uint8_t value[PROGRESS_BYTES];
    big_endian_put(value, p->queue, 4);
    big_endian_put(value + 4, p->list, 4);
    big_endian_put(value + 8, p->from.seq, 8);
    big_endian_put(value + 16, p->from.part, 4);
    big_endian_put(value + 20, p->has_damage, 4);
    big_endian_put(value + 24, p->messages, 8);
    big_endian_put(value + 32, p->bytes, 8);
    big_endian_put(value + 40, p->rejected, 8);
    MDB_val key = {sizeof PROGRESS - 1, PROGRESS}, data = {sizeof value, value};
    return mdb_put(txn, meta, &key, &data, 0);
}

/* MDB_NOTFOUND if nothing is under way. */
static int get_progress(MDB_txn *txn, MDB_dbi meta, struct progress *p)
{
    MDB_val key = {sizeof PROGRESS - 1, PROGRESS}, data;
    int error = mdb_get(txn, meta, &key, &data);
    if (error)
        return error;
    if (data.mv_size != PROGRESS_BYTES)
        return MDB_CORRUPTED;
    const uint8_t *at = data.mv_data;
    *p = (struct progress){
        .queue = (uint32_t)big_endian_get(at, 4),
        .list = (uint32_t)big_endian_get(at + 4, 4),
        .from = {big_endian_get(at + 8, 8), (uint32_t)big_endian_get(at + 16, 4)},
        .has_damage = big_endian_get(at + 20, 4) != 0,
        .messages = big_endian_get(at + 24, 8),
        .bytes = big_endian_get(at + 32, 8),
        .rejected = big_endian_get(at + 40, 8),
    };
    return p->list < FORMAT1_KINDS ? 0 : MDB_CORRUPTED;
}

enum status migration_check(MDB_txn *txn, uint32_t version, struct failure *failure)
{
    MDB_dbi meta;
    struct progress progress;
    if (version > SPOOL_FORMAT_VERSION)
        return failure_set(failure, STATUS_VERSION,
                           "the spool has format version %u, this program knows up to %u", version,
                           SPOOL_FORMAT_VERSION);
    if (version < SPOOL_FORMAT_VERSION)
        return failure_set(failure, STATUS_VERSION,
                           "the spool has format version %u: amqpbuf changes it to version %u when "
                           "it starts; before that, use the programs of the version that wrote it",
                           version, SPOOL_FORMAT_VERSION);
    int error = guard_open(txn, "meta", 0, &meta);
    if (!error)
        error = get_progress(txn, meta, &progress);
    if (error == MDB_NOTFOUND)
        return STATUS_OK;
    if (error)
        return env_error(failure, error, "reading how far the migration is");
    return failure_set(failure, STATUS_VERSION,
                       "the spool is on its way to format version %u (it is at queue %u): wait "
                       "until amqpbuf has started, or start it",
                       SPOOL_FORMAT_VERSION, progress.queue);
}

static void tell(struct migration *m)
{
    uint64_t now = now_ms();
    service_starting(STEP_MAX_MS);
    if (now - m->told_ms < TOLD_MS)
        return;
    LOG(LOG_INFO, "migration_progress", LOG_N("queue", m->progress.queue),
        LOG_N("messages", m->moved), LOG_N("of", m->total));
    m->told_ms = now;
}

/* ---- entries ---- */

/* One that cannot be read stays as it is: format 2 finds that it is damaged, and says so. */
static int convert_entry(const struct migration *m, MDB_txn *txn, const struct progress *p)
{
    uint8_t key_bytes[4];
    struct directory_entry entry;
    size_t len;
    directory_key(key_bytes, p->queue);
    MDB_val key = {sizeof key_bytes, key_bytes}, value;
    int error = mdb_get(txn, m->queues, &key, &value);
    if (error || !format1_entry(p->queue, &value, &entry))
        return error;
    entry.messages = p->messages;
    entry.bytes = p->bytes;
    entry.rejected = p->rejected;
    uint8_t *bytes = directory_encode(&entry, &len);
    directory_entry_clear(&entry);
    value = (MDB_val){len, bytes};
    error = mdb_put(txn, m->queues, &key, &value, 0);
    free(bytes);
    return error;
}

/* The first queue from `id` on; 0 if there is none. */
static int find_queue(const struct migration *m, MDB_txn *txn, uint32_t id, uint32_t *found)
{
    MDB_cursor *cursor;
    uint8_t key_bytes[4];
    directory_key(key_bytes, id);
    MDB_val key = {sizeof key_bytes, key_bytes}, value;
    *found = 0;
    int error = mdb_cursor_open(txn, m->queues, &cursor);
    if (error)
        return error;
    error = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    if (!error && key.mv_size == sizeof key_bytes)
        *found = (uint32_t)big_endian_get(key.mv_data, 4);
    mdb_cursor_close(cursor);
    return error == MDB_NOTFOUND ? 0 : error;
}

/* What there is to do, as far as the old entries know. */
static int count_all(struct migration *m, MDB_txn *txn)
{
    struct directory_entry entry;
    uint32_t id = m->progress.queue;
    int error = find_queue(m, txn, id, &id);
    for (; !error && id; error = find_queue(m, txn, id + 1, &id)) {
        uint8_t key_bytes[4];
        directory_key(key_bytes, id);
        MDB_val key = {sizeof key_bytes, key_bytes}, value;
        if (mdb_get(txn, m->queues, &key, &value) != 0 || !format1_entry(id, &value, &entry))
            continue;
        m->total += entry.messages + entry.rejected;
        directory_entry_clear(&entry);
    }
    return error;
}

/* ---- a step ---- */

/* From where the last step ended on. */
static int open_lists(struct migration *m)
{
    const struct progress *p = &m->progress;
    struct step *step = &m->step;
    uint32_t queue, kind = p->list;
    MDB_txn *txn;
    int error = view_begin(m->env, &txn);
    if (error)
        return error;
    error = find_queue(m, txn, p->queue, &queue);
    if (queue != p->queue)
        kind = 0;
    while (!error && queue && step->count < STEP_LISTS) {
        struct format1_list *list = &step->lists[step->count++];
        *list = (struct format1_list){.queue = queue, .kind = kind};
        if (queue == p->queue && kind == p->list) {
            list->from = p->from;
            list->has_damage = p->has_damage;
        }
        error = format1_open(txn, list);
        list->is_at_end = !list->dbi;
        kind = (kind + 1) % FORMAT1_KINDS;
        if (!error && kind == 0)
            error = find_queue(m, txn, queue + 1, &queue);
    }
    if (!error) /* the handles live on */
        return view_commit(txn);
    view_end(txn);
    return error;
}

/* Reads what the step has room for; of the lists behind that nothing is read. */
static int gather(struct migration *m)
{
    struct step *step = &m->step;
    int error = 0;
    for (unsigned i = 0; i < step->count && !error; i++) {
        if (!format1_is_full(&step->batch))
            error = format1_gather(m->env, &step->lists[i], &step->batch);
        step->ends[i] = step->batch.count;
    }
    return error;
}

static int put_item(const struct migration *m, MDB_txn *txn, const struct format1_list *list,
                    const struct format1_item *item)
{
    uint8_t key_bytes[RECORD_PART_KEY_BYTES];
    record_part_key(key_bytes, list->queue, item->place.seq, item->place.part);
    size_t key_len = list->kind == FORMAT1_PARTS ? RECORD_PART_KEY_BYTES : RECORD_KEY_BYTES;
    MDB_val key = {key_len, key_bytes}, value = {item->len, m->step.batch.bytes + item->at};
    return mdb_put(txn, m->target[list->kind], &key, &value, MDB_APPEND);
}

static int delete_item(MDB_txn *txn, const struct format1_list *list,
                       const struct format1_item *item)
{
    uint8_t bytes[FORMAT1_KEY_BYTES];
    MDB_val key = format1_key(bytes, list, item->place);
    return mdb_del(txn, list->dbi, &key, NULL);
}

static void count(struct progress *p, const struct migration *m, const struct format1_list *list,
                  const struct format1_item *item)
{
    struct record r;
    const char *what;
    p->rejected += list->kind == FORMAT1_REJECTED;
    if (list->kind != FORMAT1_WAITING)
        return;
    p->messages++;
    if (record_read(m->step.batch.bytes + item->at, item->len, list->queue, item->place.seq, &r,
                    &what) == STATUS_OK)
        p->bytes += r.method.iov_len + r.header.iov_len + r.body_size;
}

static int move_items(const struct migration *m, MDB_txn *txn, const struct format1_list *list,
                      size_t first, size_t end, struct progress *p)
{
    int error = 0;
    for (size_t i = first; i < end && !error; i++) {
        const struct format1_item *item = &m->step.batch.items[i];
        error = put_item(m, txn, list, item);
        if (!error && !list->has_damage)
            error = delete_item(txn, list, item);
        count(p, m, list, item);
    }
    return error;
}

/* The list is done: the next one is at work. */
static int end_list(const struct migration *m, MDB_txn *txn, const struct format1_list *list,
                    struct progress *p)
{
    int error = list->dbi && !list->has_damage ? mdb_drop(txn, list->dbi, 1) : 0;
    bool is_last = list->kind + 1 == FORMAT1_KINDS;
    if (!error && is_last)
        error = convert_entry(m, txn, p);
    if (is_last)
        *p = (struct progress){.queue = list->queue + 1};
    else
        *p = (struct progress){.queue = list->queue,
                               .list = list->kind + 1,
                               .messages = p->messages,
                               .bytes = p->bytes,
                               .rejected = p->rejected};
    return error;
}

/* Up to the first list that is not at its end. */
static int apply(const struct migration *m, MDB_txn *txn, struct progress *p)
{
    size_t first = 0;
    int error = 0;
    bool goes_on = true;
    for (unsigned i = 0; i < m->step.count && !error && goes_on; i++) {
        const struct format1_list *list = &m->step.lists[i];
        p->queue = list->queue;
        p->from = list->from;
        p->has_damage = list->has_damage;
        error = move_items(m, txn, list, first, m->step.ends[i], p);
        first = m->step.ends[i];
        goes_on = list->is_at_end;
        if (!error && goes_on)
            error = end_list(m, txn, list, p);
    }
    return error ? error : put_progress(txn, m->meta, p);
}

static int commit(MDB_txn *txn, int error)
{
    CRASH_POINT("in_migration");
    if (error)
        mdb_txn_abort(txn);
    else
        error = mdb_txn_commit(txn);
    CRASH_POINT("in_migration");
    return error;
}

static void name_damage(const struct format1_list *list)
{
    static const char *const names[] = {"parts of bodies", "rejected", "waiting"};
    LOG(LOG_ERROR, "migration_left", LOG_N("queue", list->queue), LOG_T("list", names[list->kind]),
        LOG_T("reason", "some pages cannot be read: what can is copied, and the old list keeps its "
                        "space"));
}

/* LMDB has closed those that were dropped. */
static void close_lists(struct migration *m)
{
    bool was_applied = true;
    for (unsigned i = 0; i < m->step.count; i++) {
        const struct format1_list *list = &m->step.lists[i];
        bool is_done = was_applied && list->is_at_end;
        if (is_done && list->has_damage)
            name_damage(list);
        if (list->dbi && !(is_done && !list->has_damage))
            mdb_dbi_close(m->env, list->dbi);
        was_applied = is_done;
    }
}

static uint64_t count_messages(const struct step *step)
{
    uint64_t messages = 0;
    for (unsigned i = 0; i < step->count; i++)
        if (step->lists[i].kind != FORMAT1_PARTS)
            messages += step->ends[i] - (i > 0 ? step->ends[i - 1] : 0);
    return messages;
}

/* *more: there was something to do. */
static int make_step(struct migration *m, bool *more)
{
    struct step *step = &m->step;
    struct progress p = m->progress;
    MDB_txn *txn;
    step->count = 0;
    step->batch.count = step->batch.len = 0;
    int error = open_lists(m);
    if (!error)
        error = gather(m);
    *more = step->count > 0;
    if (!error && *more)
        error = lock_begin(m->env, 0, &txn);
    if (error || !*more)
        return error;
    error = commit(txn, apply(m, txn, &p));
    if (error)
        return error;
    close_lists(m);
    m->moved += count_messages(step);
    m->progress = p;
    return 0;
}

/* ---- all of it ---- */

/* The databases of format 2; and the first step, if it has not been made. */
static int open_databases(struct migration *m, MDB_txn *txn, bool is_begun)
{
    static const char *const targets[] = {"parts", "rejected", "messages"};
    int error = guard_open(txn, "queues", 0, &m->queues);
    for (unsigned kind = 0; kind < FORMAT1_KINDS && !error; kind++)
        error = guard_open(txn, targets[kind], MDB_CREATE, &m->target[kind]);
    if (!error && !is_begun)
        error = env_write_version(txn, m->meta);
    if (!error && !is_begun)
        error = put_progress(txn, m->meta, &m->progress);
    return error ? error : count_all(m, txn);
}

static int finish(struct migration *m)
{
    MDB_txn *txn;
    MDB_val key = {sizeof PROGRESS - 1, PROGRESS};
    int error = lock_begin(m->env, 0, &txn);
    return error ? error : commit(txn, mdb_del(txn, m->meta, &key, NULL));
}

/* STATUS_NOT_FOUND if there is nothing to do. */
static enum status begin(struct migration *m, struct failure *failure)
{
    MDB_txn *txn;
    uint32_t version;
    int error = lock_begin(m->env, 0, &txn);
    if (error)
        return env_error(failure, error, "starting a transaction");
    enum status status = env_read_version(txn, &m->meta, &version, failure);
    if (status == STATUS_OK && version <= SPOOL_FORMAT_VERSION) {
        error = get_progress(txn, m->meta, &m->progress);
        bool is_begun = error == 0;
        if (is_begun || (error == MDB_NOTFOUND && version < SPOOL_FORMAT_VERSION))
            return env_error(failure, commit(txn, open_databases(m, txn, is_begun)),
                             "beginning the migration");
        status = env_error(failure, error, "reading how far the migration is");
    }
    mdb_txn_abort(txn);
    return status == STATUS_OK ? STATUS_NOT_FOUND : status;
}

static enum status run(struct migration *m, enum status (*settle)(void *arg, struct failure *),
                       void *arg, struct failure *failure)
{
    enum status status = begin(m, failure);
    if (status != STATUS_OK)
        return status == STATUS_NOT_FOUND ? STATUS_OK : status;
    m->started_ms = now_ms();
    m->told_ms = now_ms();
    LOG(LOG_WARN, "migration_started", LOG_N("queue", m->progress.queue), LOG_N("of", m->total));
    for (bool more = true; more;) {
        status = settle(arg, failure);
        if (status != STATUS_OK)
            return status;
        tell(m);
        status = env_error(failure, make_step(m, &more),
                           "changing the spool to format version 2 (the next start goes on)");
        if (status != STATUS_OK)
            return status;
    }
    status = env_error(failure, finish(m), "ending the migration");
    if (status == STATUS_OK)
        status = settle(arg, failure);
    if (status == STATUS_OK)
        LOG(LOG_WARN, "migration_finished", LOG_N("messages", m->moved),
            LOG_N("ms", now_ms() - m->started_ms));
    return status;
}

enum status migration_run(MDB_env *env, enum status (*settle)(void *arg, struct failure *),
                          void *arg, struct failure *failure)
{
    struct migration m = {.env = env, .step.batch.max_bytes = STEP_BYTES};
    enum status status = run(&m, settle, arg, failure);
    free(m.step.batch.items);
    free(m.step.batch.bytes);
    return status;
}
