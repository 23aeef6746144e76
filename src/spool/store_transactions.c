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
#include "spool/guard.h"
#include "spool/lock.h"
#include "spool/migration.h"
#include "spool/store_internal.h"
#include "spool/trial.h"
#include "spool/view.h"

/* Happy path: begin, writes, commit. Counters of the queues are kept in memory and written to the
 * `queues` database with the commit that changes them.
 *
 * What can fail: a write (LMDB then refuses everything but an abort) or the commit; both restore
 * the counters as they were at begin. LMDB 0.9 panics after a failed meta page write: STATUS_FATAL,
 * and the owner opens the store again. */

enum { BEYOND_MIN_BYTES = 64 * 1024 * 1024 };

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
    unsigned flags = status == STATUS_NOT_FOUND ? MDB_CREATE : 0;
    if (status == STATUS_NOT_FOUND) {
        int error = guard_open(txn, "meta", MDB_CREATE, &s->meta);
        if (!error)
            error = env_write_version(txn, s->meta);
        status = env_error(failure, error, "writing the format version");
    } else if (status == STATUS_OK) {
        status = migration_check(txn, version, failure);
    }
    if (status != STATUS_OK)
        return status;
    const struct {
        const char *name;
        MDB_dbi *dbi;
    } databases[] = {{"queues", &s->queues},
                     {"messages", &s->messages},
                     {"rejected", &s->rejected},
                     {"parts", &s->parts}};
    int error = 0;
    for (unsigned i = 0; i < sizeof databases / sizeof *databases && !error; i++)
        error = guard_open(txn, databases[i].name, flags, databases[i].dbi);
    /* None of them is made anew: it may be there, with all its messages, under a damaged name. */
    if (error == MDB_NOTFOUND)
        return failure_set(failure, STATUS_DAMAGED, "one of the spool's databases is not there");
    return env_error(failure, error, "opening the databases");
}

/* If that fails they are mended in memory, and written with the next change. */
static void write_mended(struct store *s)
{
    for (uint32_t i = 0; i < s->slot_count; i++)
        if (s->slots[i].is_mended)
            store_touch(s, &s->slots[i]);
    if (s->touched.count > 0 && store_begin(s, NULL) == STATUS_OK)
        (void)store_commit(s, NULL);
}

static enum status settle(void *arg, struct failure *failure)
{
    return store_sync(arg, failure);
}

static enum status load(struct store *s, struct failure *failure)
{
    MDB_txn *txn;
    CRASH_POINT("before_load");
    enum status status = space_recount(s, failure);
    if (status == STATUS_OK)
        status = store_check_trees(s, failure);
    if (status == STATUS_OK && !s->is_free_list_damaged)
        status = migration_run(s->env, settle, s, failure);
    if (status != STATUS_OK)
        return status;
    int error = s->is_free_list_damaged ? view_begin(s->env, &txn) : lock_begin(s->env, 0, &txn);
    if (error)
        return env_error(failure, error, "starting to read the spool");
    status = open_databases(s, txn, failure);
    if (status == STATUS_OK && !s->is_free_list_damaged)
        status = env_error(failure, put_max_size(s, txn), "writing the spool's limit");
    if (status == STATUS_OK)
        status = store_load_queues(s, txn, failure);
    if (status != STATUS_OK) {
        mdb_txn_abort(txn);
        return status;
    }
    CRASH_POINT("before_first_commit");
    error = s->is_free_list_damaged ? view_commit(txn) : mdb_txn_commit(txn);
    CRASH_POINT("after_first_commit");
    if (error)
        return env_error(failure, error, "committing the first transaction");
    store_look_at_queues(s);
    write_mended(s);
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
        trial_run(s->path);
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
    if (status == STATUS_OK) {
        place_note(&s->place, options->path);
        if (store_keeps_checkpoints(s))
            place_note_checkpoint(&s->place, options->path);
        room_init(&s->room, s->env, s->max_bytes, map_bytes(s->max_bytes));
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
    store_free_queues(s);
    if (store_keeps_checkpoints(s))
        checkpoint_end(&s->checkpoint, s->env, NULL); /* if it fails: it stays, and is right */
    if (s->env)
        env_close(s->env);
    room_deinit(&s->room);
    free(s->path);
    home_unlock(&s->lock);
    free(s);
}

bool store_was_restored(const struct store *s)
{
    return s->was_restored;
}

/* ---- transactions ---- */

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
    int error = lock_begin(s->env, 0, &s->txn);
    if (error)
        s->txn = NULL;
    return env_error(failure, error, "starting a transaction");
}

static int commit(struct store *s)
{
    CRASH_POINT("before_commit");
    int error = space_commit(s, s->txn);
    CRASH_POINT("after_commit");
    return error;
}

enum status store_commit(struct store *s, struct failure *failure)
{
    ENSURE(s->txn);
    int error = store_put_touched(s);
    if (error)
        mdb_txn_abort(s->txn);
    else
        error = commit(s);
    s->txn = NULL;
    if (error)
        store_restore_touched(s);
    else
        store_keep_touched(s);
    return env_error(failure, error, "committing to the spool");
}

void store_abort(struct store *s)
{
    ENSURE(s->txn);
    mdb_txn_abort(s->txn);
    s->txn = NULL;
    store_restore_touched(s);
}

enum status store_sync(struct store *s, struct failure *failure)
{
    ENSURE(!s->txn);
    return store_keeps_checkpoints(s) ? checkpoint_take(&s->checkpoint, s->env, failure)
                                      : STATUS_OK;
}

/* ---- rest ---- */

enum status store_rest(struct store *s, struct failure *failure)
{
    enum status status = store_sync(s, failure);
    return status == STATUS_OK ? space_recount(s, failure) : status;
}

/* What was committed before is synced also where nothing can be written. */
enum status store_probe(struct store *s, struct failure *failure)
{
    enum status status = store_sync(s, failure);
    if (status == STATUS_OK)
        status = space_pass(s, failure);
    return status == STATUS_OK ? store_sync(s, failure) : status;
}
