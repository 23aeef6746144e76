#include "agenda.h"

#include <stdlib.h>

#include "base/assert.h"

static struct {
    struct event **heap; /* from 1 */
    size_t count, capacity;
    uint64_t now_us, order, ran;
} agenda;

void agenda_begin(uint64_t now_us)
{
    agenda.now_us = now_us;
    agenda.order = agenda.ran = 0;
    ENSURE(agenda.count == 0);
}

void agenda_end(void)
{
    ENSURE(agenda.count == 0);
}

uint64_t agenda_now_us(void)
{
    return agenda.now_us;
}

uint64_t agenda_count(void)
{
    return agenda.ran;
}

static bool is_before(const struct event *a, const struct event *b)
{
    return a->due_us != b->due_us ? a->due_us < b->due_us : a->order < b->order;
}

static void put(struct event *e, size_t place)
{
    agenda.heap[place] = e;
    e->place = place;
}

static void rise(struct event *e)
{
    size_t at = e->place;
    for (; at > 1 && is_before(e, agenda.heap[at / 2]); at /= 2)
        put(agenda.heap[at / 2], at);
    put(e, at);
}

static void sink(struct event *e)
{
    size_t at = e->place;
    for (;;) {
        size_t child = at * 2;
        if (child > agenda.count)
            break;
        if (child < agenda.count && is_before(agenda.heap[child + 1], agenda.heap[child]))
            child++;
        if (!is_before(agenda.heap[child], e))
            break;
        put(agenda.heap[child], at);
        at = child;
    }
    put(e, at);
}

void agenda_cancel(struct event *e)
{
    if (e->place == 0)
        return;
    struct event *last = agenda.heap[agenda.count--];
    if (last != e) {
        put(last, e->place);
        rise(last);
        sink(last);
    }
    e->place = 0;
}

void agenda_in(struct event *e, uint64_t delay_us, void (*run)(void *arg), void *arg)
{
    agenda_cancel(e);
    if (agenda.count + 1 >= agenda.capacity) {
        agenda.capacity = agenda.capacity * 2 + 64;
        agenda.heap = realloc(agenda.heap, agenda.capacity * sizeof *agenda.heap);
        ENSURE(agenda.heap);
    }
    e->due_us = agenda.now_us + delay_us;
    e->order = ++agenda.order;
    e->run = run;
    e->arg = arg;
    put(e, ++agenda.count);
    rise(e);
}

uint64_t agenda_next_us(void)
{
    return agenda.count ? agenda.heap[1]->due_us : UINT64_MAX;
}

bool agenda_run_next(uint64_t until_us)
{
    if (agenda.count == 0 || agenda_next_us() > until_us)
        return false;
    struct event *e = agenda.heap[1];
    agenda.now_us = e->due_us;
    agenda_cancel(e);
    agenda.ran++;
    e->run(e->arg);
    return true;
}

void agenda_wait(uint64_t until_us)
{
    ENSURE(until_us >= agenda.now_us && until_us <= agenda_next_us());
    agenda.now_us = until_us;
}
