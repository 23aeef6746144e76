#include "spool/room.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/crash_point.h"
#include "base/memory.h"
#include "spool/env.h"

enum {
    AHEAD_MIN_BYTES = 1024 * 1024,
    AHEAD_MAX_BYTES = 8 * 1024 * 1024,
    AHEAD_DIVISOR = 16,                 /* of max_size */
    GIVE_BACK_BYTES = 64 * 1024 * 1024, /* less is not worth the work */
    KEPT_PAGES = 2048,                  /* free pages that stay claimed: the next to be used */
};

void room_init(struct room *r, int fd, uint64_t max_bytes)
{
    uint64_t ahead = max_bytes / AHEAD_DIVISOR;
    *r = (struct room){.fd = fd, .max_bytes = max_bytes};
    r->ahead_bytes = ahead < AHEAD_MIN_BYTES   ? AHEAD_MIN_BYTES
                     : ahead > AHEAD_MAX_BYTES ? AHEAD_MAX_BYTES
                                               : ahead;
}

/* ---- claiming ---- */

static bool claim(struct room *r, uint64_t end)
{
    int error;
    do
        error = fallocate(r->fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)end) < 0 ? errno : 0;
    while (error == EINTR);
    if (error == 0)
        r->claimed_bytes = end;
    else if (error == EOPNOTSUPP || error == ENOSYS)
        r->cannot_claim = true; /* then a full disk shows when a commit fails */
    return error == 0 || r->cannot_claim;
}

bool room_has(struct room *r, uint64_t used_bytes)
{
    uint64_t needed = used_bytes + r->ahead_bytes, more = needed + r->ahead_bytes;
    if (needed > r->max_bytes)
        needed = r->max_bytes;
    if (more > r->max_bytes)
        more = r->max_bytes;
    if (r->cannot_claim || needed <= r->claimed_bytes)
        return true;
    return claim(r, more) ||
           claim(r, needed); /* a step further, so that not every message claims */
}

/* ---- giving back ---- */

struct pages {
    size_t *numbers;
    size_t count, capacity;
};

static void add_pages(struct pages *pages, const size_t *numbers, size_t count)
{
    if (!pages->numbers || pages->capacity - pages->count < count) {
        pages->capacity = 2 * pages->capacity + count + 1;
        pages->numbers = memory_grow(pages->numbers, pages->capacity, sizeof *pages->numbers);
    }
    memcpy(pages->numbers + pages->count, numbers, count * sizeof *numbers);
    pages->count += count;
}

/* The free database: under each transaction's id a list of the pages that it freed, their number in
 * front (see env_count_pages). Those of the last one belong to the state before it, which a power
 * cut may bring back: LMDB does not use them yet, and so they are left alone. */
static int collect(MDB_txn *txn, struct pages *pages)
{
    enum { FREE_DBI = 0 };
    MDB_cursor *cursor;
    MDB_val key, data;
    size_t last = mdb_txn_id(txn);
    int error = mdb_cursor_open(txn, FREE_DBI, &cursor);
    if (error)
        return error;
    while ((error = mdb_cursor_get(cursor, &key, &data, MDB_NEXT)) == 0) {
        size_t freed_by, count;
        memcpy(&freed_by, key.mv_data, sizeof freed_by);
        memcpy(&count, data.mv_data, sizeof count);
        if (freed_by < last)
            add_pages(pages, (const size_t *)data.mv_data + 1, count);
    }
    mdb_cursor_close(cursor);
    return error == MDB_NOTFOUND ? 0 : error;
}

static int by_number(const void *a, const void *b)
{
    size_t left = *(const size_t *)a, right = *(const size_t *)b;
    return (left > right) - (left < right);
}

static bool punch(struct room *r, uint64_t begin, uint64_t len)
{
    if (fallocate(r->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)begin, (off_t)len) == 0)
        return true;
    r->cannot_give = true;
    return false;
}

/* The lowest free pages stay: LMDB takes them first, and a deletion may need them on a full disk.
 */
static void punch_runs(struct room *r, const struct pages *pages, uint64_t page_bytes)
{
    for (size_t i = KEPT_PAGES; i < pages->count;) {
        size_t run = 1;
        while (i + run < pages->count && pages->numbers[i + run] == pages->numbers[i] + run)
            run++;
        CRASH_POINT("in_give_back");
        if (!punch(r, pages->numbers[i] * page_bytes, run * page_bytes))
            return;
        i += run;
    }
}

enum status room_give_back(struct room *r, MDB_txn *txn, uint64_t free_bytes,
                           struct failure *failure)
{
    MDB_stat stat;
    struct pages pages = {0};
    if (free_bytes < r->given_bytes)
        r->given_bytes = free_bytes; /* they were used again since */
    if (r->cannot_give || free_bytes - r->given_bytes < GIVE_BACK_BYTES)
        return STATUS_OK;
    int error = mdb_env_stat(mdb_txn_env(txn), &stat);
    if (!error)
        error = collect(txn, &pages);
    if (!error && pages.count > KEPT_PAGES) {
        qsort(pages.numbers, pages.count, sizeof *pages.numbers, by_number);
        punch_runs(r, &pages, stat.ms_psize);
        r->claimed_bytes = 0; /* claimed again from the beginning when it is needed */
    }
    r->given_bytes = free_bytes;
    free(pages.numbers);
    return env_error(failure, error, "giving disk space back");
}
