#include "drain/remains.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* How many runs begin at or before this number. */
static uint32_t begun_by(const struct remains *r, uint64_t seq)
{
    uint32_t low = 0, high = r->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (r->runs[middle].first <= seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_in_run_before(const struct remains *r, uint32_t at, uint64_t seq)
{
    return at > 0 && seq <= r->runs[at - 1].last;
}

bool remains_have(const struct remains *r, uint64_t seq)
{
    return is_in_run_before(r, begun_by(r, seq), seq);
}

static void insert(struct remains *r, uint32_t at, uint64_t seq)
{
    if (r->count == r->capacity) {
        r->capacity = r->capacity ? r->capacity * 2 : 8;
        r->runs = memory_grow(r->runs, r->capacity, sizeof *r->runs);
    }
    memmove(r->runs + at + 1, r->runs + at, (r->count++ - at) * sizeof *r->runs);
    r->runs[at] = (struct remains_run){seq, seq};
}

/* The gap between this run and the next is gone. */
static void join(struct remains *r, uint32_t at)
{
    r->runs[at].last = r->runs[at + 1].last;
    memmove(r->runs + at + 1, r->runs + at + 2, (--r->count - at - 1) * sizeof *r->runs);
}

bool remains_add(struct remains *r, uint64_t seq)
{
    uint32_t at = begun_by(r, seq);
    if (is_in_run_before(r, at, seq))
        return false;
    bool follows = at > 0 && r->runs[at - 1].last + 1 == seq;
    bool leads = at < r->count && r->runs[at].first == seq + 1;
    if (follows)
        r->runs[at - 1].last = seq;
    else if (leads)
        r->runs[at].first = seq;
    else
        insert(r, at, seq);
    if (follows && leads)
        join(r, at - 1);
    return true;
}

void remains_clear(struct remains *r)
{
    free(r->runs);
    *r = (struct remains){0};
}
