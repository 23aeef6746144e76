#include "session/retained.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/states.h"

static const struct states states = {
    .object = "retained publish",
    .names =
        {[RETAINED_OPEN] = "open", [RETAINED_SETTLED] = "settled", [RETAINED_DOUBTED] = "doubted"},
    .next = {[RETAINED_OPEN] = TO(RETAINED_SETTLED) | TO(RETAINED_DOUBTED),
             [RETAINED_DOUBTED] = TO(RETAINED_SETTLED)},
};

void retained_move(struct retained *entry, enum retained_state to)
{
    STATE_MOVE(&states, entry->state, to);
}

void unconfirmed_deinit(struct unconfirmed *u)
{
    ENSURE(u->count == 0);
    free(u->ring);
    *u = (struct unconfirmed){0};
}

static void grow(struct unconfirmed *u)
{
    uint32_t capacity = u->capacity ? u->capacity * 2 : 4;
    struct retained *ring = malloc(capacity * sizeof *ring);
    ENSURE(ring);
    for (uint32_t i = 0; i < u->count; i++) {
        struct retained *old = unconfirmed_at(u, i);
        ring[i] = *old;
        message_move(&ring[i].message, &old->message);
    }
    free(u->ring);
    u->ring = ring;
    u->capacity = capacity;
    u->first = 0;
}

struct retained *unconfirmed_add(struct unconfirmed *u, struct message *message)
{
    if (u->count == u->capacity)
        grow(u);
    struct retained *entry = unconfirmed_at(u, u->count++);
    entry->state = RETAINED_OPEN; /* a new one */
    entry->doubt = NULL;
    message_move(&entry->message, message);
    return entry;
}

void unconfirmed_drop_oldest(struct unconfirmed *u)
{
    ENSURE(u->count > 0);
    message_clear(&unconfirmed_at(u, 0)->message);
    u->first = (u->first + 1) & (u->capacity - 1);
    u->count--;
}

void unconfirmed_drop_settled(struct unconfirmed *u)
{
    while (u->count > 0 && unconfirmed_at(u, 0)->state == RETAINED_SETTLED) {
        u->first = (u->first + 1) & (u->capacity - 1);
        u->count--;
    }
}
