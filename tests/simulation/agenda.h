#pragma once

/* The clock of a run, and what is to happen when. It stands still while something happens, and
 * jumps to the next thing. Of two at one time the one that was entered first comes first. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Embedded in what it belongs to, which cancels it before it goes. Zeroed: not entered. */
struct event {
    uint64_t due_us, order;
    size_t place; /* in the heap, from 1; 0: not entered */
    void (*run)(void *arg);
    void *arg;
};

/* Empty, at this time. */
void agenda_begin(uint64_t now_us);
void agenda_end(void);
uint64_t agenda_now_us(void);
/* Enters it, or moves it. */
void agenda_in(struct event *, uint64_t delay_us, void (*run)(void *arg), void *arg);
void agenda_cancel(struct event *);
static inline bool agenda_has(const struct event *e)
{
    return e->place != 0;
}
/* When the next one is due; UINT64_MAX: never. */
uint64_t agenda_next_us(void);
/* Runs the next one if it is due by then. */
bool agenda_run_next(uint64_t until_us);
/* Moves the clock, over nothing that is due before. */
void agenda_wait(uint64_t until_us);
/* How many have run. */
uint64_t agenda_count(void);
