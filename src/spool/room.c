#include "spool/room.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/crash_point.h"
#include "base/memory.h"
#include "spool/free_list.h"
#include "spool/view.h"

enum {
    AHEAD_MIN_BYTES = 1024 * 1024,
    AHEAD_MAX_BYTES = 8 * 1024 * 1024,
    AHEAD_DIVISOR = 16,                 /* of max_size */
    NEXT_DIVISOR = 8,                   /* of what is ahead */
    GIVE_BACK_BYTES = 64 * 1024 * 1024, /* less is not worth the work */
    GIVE_BUSY_FACTOR = 4,               /* so much less while there is other work */
    FILL_PAGES = 32,                    /* at once */
    STEP_PAGES = 512,                   /* looked for in a step, at most */
    SHORT_STEP_PAGES = 4096,            /* the same while the disk has none for deletions */
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t file_bytes(const struct room *r)
{
    MDB_envinfo info;
    mdb_env_info(r->env, &info);
    return (info.me_last_pgno + 1) * r->page_bytes;
}

/* ---- which pages have none ---- */

/* Blocks that were claimed and never written are told as holes, too: they are claimed again, which
 * changes nothing. */
static void find_holes(struct room *r)
{
    off_t end = (off_t)file_bytes(r), hole = lseek(r->fd, 0, SEEK_HOLE);
    while (hole >= 0 && hole < end) {
        off_t data = lseek(r->fd, hole, SEEK_DATA);
        uint64_t behind = (uint64_t)(data < 0 || data > end ? end : data) / r->page_bytes;
        for (uint64_t page = (uint64_t)hole / r->page_bytes; page < behind; page++)
            page_set_add(&r->holes, page);
        hole = data < 0 ? data : lseek(r->fd, data, SEEK_HOLE);
    }
}

void room_init(struct room *r, MDB_env *env, uint64_t max_bytes, uint64_t map_bytes)
{
    MDB_stat stat;
    uint64_t ahead = max_bytes / AHEAD_DIVISOR;
    *r = (struct room){.env = env, .map_bytes = map_bytes};
    mdb_env_get_fd(env, &r->fd);
    mdb_env_stat(env, &stat);
    r->page_bytes = stat.ms_psize;
    r->ahead_bytes = ahead < AHEAD_MIN_BYTES   ? AHEAD_MIN_BYTES
                     : ahead > AHEAD_MAX_BYTES ? AHEAD_MAX_BYTES
                                               : ahead;
    r->claimed_bytes = file_bytes(r);
    page_set_reach(&r->holes, r->claimed_bytes / r->page_bytes);
    find_holes(r);
}

void room_deinit(struct room *r)
{
    page_set_free(&r->holes);
}

void room_moved(struct room *r)
{
    r->front_bytes = 0;
    r->has_tried = false;
}

/* ---- pages of the free list ---- */

struct pages {
    size_t *numbers;
    size_t count, capacity;
};

static void add_page(struct pages *pages, size_t number)
{
    if (pages->count == pages->capacity) {
        pages->capacity = 2 * pages->capacity + 64;
        pages->numbers = memory_grow(pages->numbers, pages->capacity, sizeof *pages->numbers);
    }
    pages->numbers[pages->count++] = number;
}

static int by_number(const void *a, const void *b)
{
    size_t left = *(const size_t *)a, right = *(const size_t *)b;
    return (left > right) - (left < right);
}

static size_t run_at(const struct pages *pages, size_t at)
{
    size_t run = 1;
    while (at + run < pages->count && pages->numbers[at + run] == pages->numbers[at] + run)
        run++;
    return run;
}

/* ---- claiming ---- */

static bool claim(struct room *r, uint64_t begin, uint64_t end)
{
    int error;
    do
        error = fallocate(r->fd, FALLOC_FL_KEEP_SIZE, (off_t)begin, (off_t)(end - begin)) < 0
                    ? errno
                    : 0;
    while (error == EINTR);
    r->cannot_claim = r->cannot_claim || error == EOPNOTSUPP || error == ENOSYS;
    r->is_short = error != 0 && !r->cannot_claim;
    return error == 0;
}

/* The end of the file: where LMDB goes when the free list has nothing for it. */
static bool claim_end(struct room *r, uint64_t end)
{
    if (end > r->map_bytes)
        end = r->map_bytes;
    if (end <= r->claimed_bytes)
        return true;
    if (!claim(r, r->claimed_bytes, end))
        return false;
    r->claimed_bytes = end;
    return true;
}

struct front {
    const struct room *room;
    uint64_t oldest, wanted_bytes, bytes;
    struct pages holes; /* among them */
};

/* LMDB keeps the numbers of a list in descending order. */
static bool look_at_front(void *arg, size_t freed_by, const size_t *pages, size_t count)
{
    struct front *front = arg;
    if (freed_by >= front->oldest)
        return false;
    for (size_t i = count; i > 0 && front->bytes < front->wanted_bytes; i--) {
        front->bytes += front->room->page_bytes;
        if (page_set_has(&front->room->holes, pages[i - 1]))
            add_page(&front->holes, pages[i - 1]);
    }
    return front->bytes < front->wanted_bytes;
}

static bool fill_some(struct room *r, struct pages *holes)
{
    if (holes->count > 0)
        qsort(holes->numbers, holes->count, sizeof *holes->numbers, by_number);
    for (size_t i = 0, run; i < holes->count; i += run) {
        run = run_at(holes, i);
        uint64_t begin = holes->numbers[i] * r->page_bytes;
        if (!claim(r, begin, begin + run * r->page_bytes))
            return false;
        for (size_t page = i; page < i + run; page++)
            page_set_remove(&r->holes, holes->numbers[page]);
    }
    return true;
}

/* Those that come next first: the disk may not have blocks for all. */
static bool fill_holes(struct room *r, const struct pages *holes)
{
    for (size_t at = 0; at < holes->count; at += FILL_PAGES) {
        size_t left = holes->count - at;
        struct pages some = {holes->numbers + at, left < FILL_PAGES ? left : FILL_PAGES, 0};
        if (!fill_some(r, &some))
            return false;
    }
    return true;
}

static bool claim_front(struct room *r, uint64_t bytes, uint64_t oldest)
{
    MDB_txn *txn;
    struct front front = {.room = r, .oldest = oldest, .wanted_bytes = bytes};
    if (r->holes.count == 0 || bytes <= r->front_bytes)
        return true;
    if (view_begin(r->env, &txn) != 0)
        return false;
    bool has = free_list_walk(txn, look_at_front, &front) == 0 && fill_holes(r, &front.holes);
    view_end(txn);
    free(front.holes.numbers);
    if (has)
        r->front_bytes = bytes;
    return has;
}

/* Of the front, for deletions on a disk that has no more. */
static uint64_t next_bytes(const struct room *r)
{
    return r->ahead_bytes / NEXT_DIVISOR;
}

/* A deletion would fail: the disk has no more, and pages that LMDB takes next have none. */
static bool lacks_front(const struct room *r)
{
    return r->is_short && r->holes.count > 0 && r->front_bytes < next_bytes(r);
}

/* LMDB goes to the end only when the free list has nothing for it: what is claimed there is of no
 * use as long as the front has holes. */
static bool give_end(struct room *r)
{
    struct stat found;
    if (r->claimed_bytes <= file_bytes(r) || fstat(r->fd, &found) != 0 ||
        ftruncate(r->fd, found.st_size) != 0)
        return false;
    r->claimed_bytes = (uint64_t)found.st_size;
    return true;
}

static void claim_with_end(struct room *r, uint64_t oldest)
{
    if (!claim_front(r, next_bytes(r), oldest) && give_end(r))
        (void)claim_front(r, next_bytes(r), oldest);
    (void)claim_end(r, file_bytes(r));
}

/* Those before it can be used only if they have blocks. */
static bool has_with(struct room *r, const struct room_need *need, uint64_t ahead)
{
    if (!claim_front(r, need->written + need->more + ahead, need->oldest))
        return false;
    return claim_end(r, need->in_use + need->more + ahead + r->holes.count * r->page_bytes);
}

bool room_has(struct room *r, const struct room_need *need)
{
    uint64_t least = need->in_use + need->more + r->ahead_bytes + r->holes.count * r->page_bytes;
    bool has_end = least <= r->claimed_bytes || r->claimed_bytes == r->map_bytes;
    if (r->cannot_claim)
        return true;
    if (has_end &&
        (r->holes.count == 0 || need->written + need->more + r->ahead_bytes <= r->front_bytes))
        return true;
    /* What comes next, before what comes later; and a step further, so that not every message
     * claims. */
    return (claim_front(r, next_bytes(r), need->oldest) &&
            (has_with(r, need, r->ahead_bytes + r->ahead_bytes / 2) ||
             has_with(r, need, r->ahead_bytes))) ||
           r->cannot_claim;
}

/* ---- giving back ---- */

/* More than what is claimed ahead, or it would be claimed again at once. */
static uint64_t kept_bytes(const struct room *r)
{
    return r->is_short ? next_bytes(r) : 2 * r->ahead_bytes;
}

bool room_gives(const struct room *r, uint64_t free_bytes, bool is_busy)
{
    uint64_t without = r->holes.count * r->page_bytes;
    uint64_t least = r->is_short ? kept_bytes(r)
                     : is_busy   ? (uint64_t)GIVE_BACK_BYTES * GIVE_BUSY_FACTOR
                                 : GIVE_BACK_BYTES;
    if (r->cannot_give || r->cannot_claim)
        return false;
    if (lacks_front(r))
        return !r->has_tried;
    return r->give_from > 0 || (free_bytes > without && free_bytes - without > least);
}

struct pass {
    const struct room *room;
    struct page_set holes; /* that are free still; the others were written, and have blocks */
};

static bool look_at_all(void *arg, size_t freed_by, const size_t *pages, size_t count)
{
    struct pass *pass = arg;
    (void)freed_by;
    for (size_t i = 0; i < count; i++)
        if (page_set_has(&pass->room->holes, pages[i]))
            page_set_add(&pass->holes, pages[i]);
    return true;
}

static int begin_pass(struct room *r, MDB_txn *txn, uint64_t oldest)
{
    struct pass pass = {.room = r};
    page_set_reach(&pass.holes, file_bytes(r) / r->page_bytes);
    int error = free_list_walk(txn, look_at_all, &pass);
    if (error) {
        page_set_free(&pass.holes);
        return error;
    }
    page_set_free(&r->holes);
    r->holes = pass.holes;
    r->give_from = 1;
    r->give_until = oldest;
    return 0;
}

struct step {
    const struct room *room;
    uint64_t front; /* pages of it that are to come */
    size_t from;    /* the first list that has any; 0: none has */
    struct pages pages;
};

/* The front is counted anew each time: LMDB puts lists together. */
static bool look_for_blocks(void *arg, size_t freed_by, const size_t *pages, size_t count)
{
    struct step *step = arg;
    const struct room *r = step->room;
    uint64_t kept = count < step->front ? count : step->front;
    step->front -= kept;
    if (freed_by >= r->give_until)
        return false;
    for (size_t i = 0; freed_by >= r->give_from && i < count - kept; i++) {
        if (page_set_has(&r->holes, pages[i]) || pages[i] >= r->holes.pages)
            continue;
        if (step->pages.count == 0)
            step->from = freed_by;
        add_page(&step->pages, pages[i]);
        if (step->pages.count == (r->is_short ? SHORT_STEP_PAGES : STEP_PAGES))
            return false;
    }
    return true;
}

static bool punch(struct room *r, const struct pages *pages, size_t at, size_t run)
{
    off_t begin = (off_t)(pages->numbers[at] * r->page_bytes), len = (off_t)(run * r->page_bytes);
    CRASH_POINT("in_give_back");
    if (fallocate(r->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, begin, len) != 0) {
        r->cannot_give = true;
        return false;
    }
    for (size_t page = at; page < at + run; page++)
        page_set_add(&r->holes, pages->numbers[page]);
    return true;
}

static void punch_some(struct room *r, const struct pages *pages, uint64_t end_ns,
                       bool (*is_awaited)(void *arg), void *arg)
{
    for (size_t i = 0, run; i < pages->count; i += run) {
        run = run_at(pages, i);
        if (!punch(r, pages, i, run) || now_ns() >= end_ns || (!r->is_short && is_awaited(arg)))
            return;
    }
}

int room_give_back(struct room *r, uint64_t oldest, uint64_t budget_ns,
                   bool (*is_awaited)(void *arg), void *arg)
{
    MDB_txn *txn;
    int error = view_begin(r->env, &txn);
    if (error)
        return error;
    if (r->give_from == 0)
        error = begin_pass(r, txn, oldest);
    struct step step = {.room = r, .front = kept_bytes(r) / r->page_bytes};
    if (!error)
        error = free_list_walk(txn, look_for_blocks, &step);
    view_end(txn);
    if (!error && step.pages.count > 0) {
        qsort(step.pages.numbers, step.pages.count, sizeof *step.pages.numbers, by_number);
        punch_some(r, &step.pages, now_ns() + budget_ns, is_awaited, arg);
    }
    r->give_from = error || r->cannot_give ? 0 : step.from;
    free(step.pages.numbers);
    if (!error && r->is_short) { /* at once: others look for blocks, too */
        claim_with_end(r, oldest);
        r->has_tried = lacks_front(r) && step.pages.count == 0;
        if (!r->has_tried)
            (void)claim_front(r, r->ahead_bytes, oldest);
    }
    return error;
}
