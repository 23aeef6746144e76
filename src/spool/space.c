#include <stdlib.h>
#include <time.h>

#include "base/assert.h"
#include "base/log.h"
#include "spool/env.h"
#include "spool/lock.h"
#include "spool/store.h"
#include "spool/store_internal.h"
#include "spool/view.h"

/* How much of the map is used, what may still be written, and what can be given back to the disk.
 */

enum {
    RECOUNT_MS = 100,
    ORDINARY_BYTES = 128 * 1024, /* a message that is not large */
    RESERVE_MIN_BYTES = 1024 * 1024,
    RESERVE_DIVISOR = 64,    /* of max_size */
    RESERVE_DIVISOR_MAX = 4, /* but no more than this share of a small one */
    MARGIN_DIVISOR = 16,     /* of max_size: nearer to it, free pages are counted every time */
};

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void note_free_list(struct store *s, const struct failure *failure)
{
    if (!s->is_free_list_damaged)
        LOG(LOG_ERROR, "spool_damaged",
            LOG_T("reason", "the list of free pages cannot be read: what waits is delivered, and "
                            "nothing is stored or deleted"),
            LOG_T("error", failure ? failure->text : NULL));
    s->is_free_list_damaged = true;
    s->counted_ms = now_ms();
}

enum status space_recount(struct store *s, struct failure *failure)
{
    MDB_txn *txn;
    struct env_pages pages;
    int error = view_begin(s->env, &txn);
    if (error)
        return env_error(failure, error, "counting free pages");
    enum status status = env_count_pages(s->env, txn, &pages, failure);
    view_end(txn);
    s->page_bytes = pages.bytes;
    if (status == STATUS_DAMAGED) {
        note_free_list(s, failure);
        return STATUS_OK;
    }
    s->used_bytes = pages.used * pages.bytes + (s->txn ? s->txn_bytes : 0);
    uint64_t held = pages.held * pages.bytes, bearable = s->reserve_bytes / 4;
    s->held_bytes = held > bearable ? held - bearable : 0;
    s->oldest_txnid = pages.oldest_txnid;
    s->is_reader_behind = pages.is_reader_behind;
    s->holder = (struct store_holder){pages.holder_pid, pages.holder_pid ? held : 0};
    s->counted_ms = now_ms();
    return status;
}

int space_commit(struct store *s, MDB_txn *txn)
{
    int error = mdb_txn_commit(txn);
    room_moved(&s->room);
    return error;
}

/* What a transaction frees, the next but one can use. A large deletion may be the last that
 * happens for a long time: an empty transaction makes room for what comes. */
enum status space_pass(struct store *s, struct failure *failure)
{
    MDB_txn *txn;
    if (s->is_free_list_damaged)
        return STATUS_OK;
    int error = lock_begin(s->env, 0, &txn);
    if (error)
        return env_error(failure, error, "starting a transaction");
    error = env_write_version(txn, s->meta);
    if (error)
        mdb_txn_abort(txn);
    else
        error = space_commit(s, txn);
    return error ? env_error(failure, error, "making room") : space_recount(s, failure);
}

bool store_keeps_checkpoints(const struct store *s)
{
    return s->checkpoint.fd >= 0;
}

/* The checkpoint's own reader holds pages back, too: it moves on. */
static enum status make_room(struct store *s, struct failure *failure)
{
    if (s->is_reader_behind && !store_keeps_checkpoints(s))
        return STATUS_OK;
    enum status status = space_pass(s, failure);
    if (status == STATUS_OK && store_keeps_checkpoints(s))
        status = checkpoint_take(&s->checkpoint, s->env, failure);
    return status == STATUS_OK && store_keeps_checkpoints(s) ? space_recount(s, failure) : status;
}

enum status space_count(struct store *s, struct failure *failure)
{
    uint64_t near = s->max_bytes - s->reserve_bytes - s->max_bytes / MARGIN_DIVISOR;
    enum status status = STATUS_OK;
    if (s->used_bytes + s->held_bytes > near || now_ms() - s->counted_ms >= RECOUNT_MS)
        status = space_recount(s, failure);
    return status == STATUS_OK && s->held_bytes > 0 ? make_room(s, failure) : status;
}

uint64_t space_reserve(uint64_t max_bytes)
{
    uint64_t share = max_bytes / RESERVE_DIVISOR, most = max_bytes / RESERVE_DIVISOR_MAX;
    uint64_t reserve = share > RESERVE_MIN_BYTES ? share : RESERVE_MIN_BYTES;
    return reserve < most ? reserve : most;
}

static uint64_t free_bytes(const struct store *s)
{
    MDB_envinfo info;
    mdb_env_info(s->env, &info);
    uint64_t end = (info.me_last_pgno + 1) * s->page_bytes;
    return end > s->used_bytes ? end - s->used_bytes : 0;
}

bool store_gives_back(const struct store *s, bool is_busy)
{
    return !s->is_free_list_damaged && room_gives(&s->room, free_bytes(s), is_busy);
}

enum status store_give_back(struct store *s, uint64_t budget_ns, bool (*is_awaited)(void *arg),
                            void *arg, struct failure *failure)
{
    ENSURE(!s->txn);
    enum status status = s->room.is_short ? space_recount(s, failure) : STATUS_OK;
    if (status != STATUS_OK)
        return status;
    int error = room_give_back(&s->room, s->oldest_txnid, budget_ns, is_awaited, arg);
    return env_error(failure, error, "giving disk space back");
}

bool space_fits(const struct store *s, uint64_t cost)
{
    return s->used_bytes + s->held_bytes + cost <= s->max_bytes - s->reserve_bytes;
}

bool space_has_blocks(struct store *s, uint64_t cost)
{
    struct room_need need = {
        .in_use = s->used_bytes + s->held_bytes,
        .written = s->txn ? s->txn_bytes : 0,
        .more = cost,
        .oldest = s->oldest_txnid,
    };
    return room_has(&s->room, &need);
}

bool store_has_room(struct store *s)
{
    uint64_t message = s->max_bytes / RESERVE_DIVISOR;
    if (message > ORDINARY_BYTES)
        message = ORDINARY_BYTES;
    return !s->is_free_list_damaged && !store_misplaced(s) && space_fits(s, message) &&
           space_has_blocks(s, message);
}

bool store_is_beyond(const struct store *s)
{
    return s->holder.pid && s->used_bytes + s->held_bytes > s->max_bytes - s->reserve_bytes;
}

struct store_holder store_holder(const struct store *s)
{
    return s->holder;
}

void store_usage(struct store *s, uint64_t *used_bytes, uint64_t *max_bytes)
{
    *used_bytes = s->used_bytes;
    *max_bytes = s->max_bytes;
}
