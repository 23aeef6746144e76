#pragma once

/* The states of one kind of object, and which may follow which. Each kind has one function that
 * makes its moves; docs/states.md shows the same tables, and tools/check-states compares.
 *
 * A move that is not in the table is an event of level error (which fails every test), and is made
 * all the same: nothing that a peer sends may end the process. */

#include <stdint.h>

enum { STATES_MAX = 16 };

struct states {
    const char *object;
    const char *names[STATES_MAX];
    uint16_t next[STATES_MAX]; /* by state, a bit for each that may follow */
};

#define TO(state) (1U << (state))

/* Says so. */
__attribute__((cold)) void states_unexpected(const struct states *, unsigned from, unsigned to);

static inline void states_check(const struct states *states, unsigned from, unsigned to)
{
    if (!(states->next[from] & TO(to)))
        states_unexpected(states, from, to);
}

/* `state` is the field, of whatever enum. */
#define STATE_MOVE(states, state, to)                                                              \
    do {                                                                                           \
        states_check((states), (state), (to));                                                     \
        (state) = (to);                                                                            \
    } while (0)
