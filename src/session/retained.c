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

void unconfirmed_rest(struct unconfirmed *u)
{
    enum { CAPACITY_KEPT = 256 };
    if (u->count > 0 || u->capacity <= CAPACITY_KEPT)
        return;
    free(u->ring);
    *u = (struct unconfirmed){0};
}

void unconfirmed_grow(struct unconfirmed *u)
{
    uint32_t capacity = u->capacity ? u->capacity * 2 : 4;
    struct retained *ring = malloc(capacity * sizeof *ring);
    ENSURE(ring);
    for (uint32_t i = 0; i < u->count; i++)
        ring[i] = *unconfirmed_at(u, i);
    free(u->ring);
    u->ring = ring;
    u->capacity = capacity;
    u->first = 0;
}

void unconfirmed_drop_oldest(struct unconfirmed *u)
{
    ENSURE(u->count > 0);
    retained_drop(unconfirmed_at(u, 0));
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

void retained_keep(struct retained *entry, struct message *message)
{
    uint8_t *at = message_adjacent(message);
    if (at) {
        retained_keep_adjacent(entry, slab_ref(message->method.slab), at);
        message_clear(message);
        return;
    }
    entry->apart = malloc(sizeof *entry->apart);
    ENSURE(entry->apart);
    message_move(entry->apart, message);
}

const struct message *retained_look(const struct retained *entry, struct message *view)
{
    ENSURE(retained_is_kept(entry));
    if (!entry->slab)
        return entry->apart;
    message_view_adjacent(view, entry->slab, entry->at);
    return view;
}

void retained_take(struct retained *entry, struct message *message)
{
    ENSURE(retained_is_kept(entry));
    if (entry->slab) {
        message_of_adjacent(message, entry->slab, entry->at);
        slab_unref(entry->slab);
    } else {
        message_move(message, entry->apart);
        free(entry->apart);
    }
    entry->slab = NULL;
    entry->apart = NULL;
}

void retained_drop_apart(struct retained *entry)
{
    message_clear(entry->apart);
    free(entry->apart);
    entry->apart = NULL;
}
