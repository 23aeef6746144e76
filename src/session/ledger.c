#include "session/ledger.h"

#include <stdlib.h>

#include "base/assert.h"

enum mark { MARK_OPEN, MARK_SAFE, MARK_REFUSED, MARK_TOLD_SAFE, MARK_TOLD_REFUSED };

enum { CAPACITY_MIN = 16, CAPACITY_KEPT = 1024 };

static uint8_t *mark_at(struct ledger *l, uint64_t index)
{
    ENSURE(index < l->count);
    return &l->marks[(l->first + index) & (l->capacity - 1)];
}

static void resize(struct ledger *l, uint32_t capacity)
{
    uint8_t *marks = malloc(capacity);
    ENSURE(marks);
    for (uint32_t i = 0; i < l->count; i++)
        marks[i] = *mark_at(l, i);
    free(l->marks);
    l->marks = marks;
    l->capacity = capacity;
    l->first = 0;
}

void ledger_deinit(struct ledger *l)
{
    free(l->marks);
    *l = (struct ledger){0};
}

uint64_t ledger_next_tag(const struct ledger *l)
{
    return l->answered + l->count + 1;
}

uint64_t ledger_add(struct ledger *l)
{
    if (l->count == l->capacity)
        resize(l, l->capacity ? l->capacity * 2 : CAPACITY_MIN);
    l->count++;
    *mark_at(l, l->count - 1) = MARK_OPEN;
    return l->answered + l->count;
}

bool ledger_decide(struct ledger *l, uint64_t tag, bool safe)
{
    if (tag <= l->answered || tag - l->answered > l->count)
        return false;
    uint8_t *mark = mark_at(l, tag - l->answered - 1);
    if (*mark != MARK_OPEN)
        return false;
    *mark = safe ? MARK_SAFE : MARK_REFUSED;
    if (l->due == 0 || tag < l->due_first)
        l->due_first = tag;
    l->due++;
    return true;
}

static void drop_front(struct ledger *l, uint32_t n)
{
    l->first = (l->first + n) & (l->capacity - 1);
    l->count -= n;
    l->answered += n;
    if (l->count == 0 && l->capacity > CAPACITY_KEPT) { /* a burst is over */
        free(l->marks);
        l->marks = NULL;
        l->capacity = l->first = 0;
    }
}

static bool is_told(uint8_t mark)
{
    return mark == MARK_TOLD_SAFE || mark == MARK_TOLD_REFUSED;
}

static void drop_told(struct ledger *l)
{
    uint32_t n = 0;
    while (n < l->count && is_told(*mark_at(l, n)))
        n++;
    if (n > 0)
        drop_front(l, n);
}

/* All that is safe from the lowest tag on, with one answer. */
static bool take_front(struct ledger *l, struct ledger_answer *answer)
{
    uint32_t n = 0, covered = 0;
    for (; n < l->count; n++) {
        uint8_t mark = *mark_at(l, n);
        if (mark == MARK_SAFE) {
            covered = n + 1;
            l->due--;
        } else if (mark != MARK_TOLD_SAFE) {
            break;
        }
    }
    if (covered == 0)
        return false;
    *answer = (struct ledger_answer){.tag = l->answered + covered, .multiple = covered > 1};
    drop_front(l, n);
    drop_told(l);
    return true;
}

/* One that was decided out of turn, or refused: alone. */
static void take_alone(struct ledger *l, struct ledger_answer *answer)
{
    uint64_t tag = l->due_first > l->answered ? l->due_first : l->answered + 1;
    uint8_t *mark = mark_at(l, tag - l->answered - 1);
    while (*mark != MARK_SAFE && *mark != MARK_REFUSED) {
        tag++;
        mark = mark_at(l, tag - l->answered - 1);
    }
    *answer = (struct ledger_answer){.tag = tag, .nack = *mark == MARK_REFUSED};
    *mark = answer->nack ? MARK_TOLD_REFUSED : MARK_TOLD_SAFE;
    l->due_first = tag + 1;
    l->due--;
    drop_told(l);
}

bool ledger_take(struct ledger *l, struct ledger_answer *answer)
{
    if (l->due == 0)
        return false;
    if (!take_front(l, answer))
        take_alone(l, answer);
    return true;
}
