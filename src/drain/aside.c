#include "drain/aside.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/memory.h"
#include "base/states.h"

/* So many are sent one by one, each after the confirm of the one before, so that none is overtaken
 * when RabbitMQ fails at every other one (a full queue that somebody reads from). */
enum { SINGLES = 16, FINE_FOR_ONE_MORE = 8 };

static const struct states states = {
    .object = "destination that is aside",
    .names = {[ASIDE_SILENT] = "silent", [ASIDE_RESTING] = "resting", [ASIDE_TRYING] = "trying"},
    .next =
        {
            [ASIDE_SILENT] = TO(ASIDE_SILENT) | TO(ASIDE_RESTING) | TO(ASIDE_TRYING),
            [ASIDE_RESTING] = TO(ASIDE_SILENT) | TO(ASIDE_RESTING) | TO(ASIDE_TRYING),
            [ASIDE_TRYING] = TO(ASIDE_SILENT) | TO(ASIDE_RESTING),
        },
};

void aside_move(struct aside *a, enum aside_state to)
{
    STATE_MOVE(&states, a->state, to);
}

struct aside *asides_find(const struct asides *asides, uint64_t destination)
{
    const uint32_t *place = number_map_find(&asides->places, destination);
    return place ? &asides->all[*place] : NULL;
}

struct aside *asides_add(struct asides *asides, uint64_t destination, uint64_t cursor)
{
    struct aside *a = asides_find(asides, destination);
    if (a)
        return a;
    if (asides->count == asides->capacity) {
        asides->capacity = asides->capacity ? asides->capacity * 2 : 8;
        asides->all = memory_grow(asides->all, asides->capacity, sizeof *asides->all);
    }
    *number_map_put(&asides->places, destination) = asides->count;
    a = &asides->all[asides->count++];
    *a = (struct aside){.destination = destination, .state = ASIDE_TRYING, .cursor = cursor};
    return a;
}

void asides_remove(struct asides *asides, struct aside *a)
{
    ENSURE(a >= asides->all && a < asides->all + asides->count);
    number_map_remove(&asides->places, a->destination);
    const struct aside *last = &asides->all[--asides->count];
    if (a == last)
        return;
    *a = *last;
    *number_map_find(&asides->places, a->destination) = (uint32_t)(a - asides->all);
}

void asides_clear(struct asides *asides)
{
    free(asides->all);
    number_map_clear(&asides->places);
    *asides = (struct asides){0};
}

void asides_begin_pass(struct asides *asides, uint64_t pass)
{
    enum { FIRST_SEQ = 1 };
    if (asides->pass == pass)
        return;
    asides->pass = pass;
    for (uint32_t i = 0; i < asides->count; i++)
        aside_rewind(&asides->all[i], FIRST_SEQ);
}

void aside_rewind(struct aside *a, uint64_t seq)
{
    if (seq <= a->cursor)
        a->cursor = seq - 1;
    a->scanned = 0;
}

uint32_t aside_failed(struct aside *a, uint64_t seq)
{
    aside_rewind(a, seq);
    a->fine = 0;
    if (a->failing && a->failing < seq)
        return 0;
    if (a->failing != seq)
        a->tries = 0;
    a->failing = seq;
    return ++a->tries;
}

void aside_rest(struct aside *a, uint64_t now_ms, uint32_t pause_ms)
{
    aside_move(a, ASIDE_RESTING);
    a->again_ms = now_ms + pause_ms;
}

bool aside_owes(const struct aside *a)
{
    return a->state == ASIDE_SILENT && a->under_way > 0;
}

void aside_taken(struct aside *a, uint64_t seq)
{
    if (a->failing == seq)
        a->failing = a->tries = 0;
    if (a->state == ASIDE_SILENT && !aside_owes(a))
        aside_move(a, ASIDE_TRYING);
    else if (a->state == ASIDE_TRYING)
        a->fine++;
}

void aside_scanned(struct aside *a, uint64_t up_to, uint32_t found)
{
    a->scanned = up_to;
    if (up_to > 0 && found == 0)
        a->failing = a->tries = 0;
}

void aside_is_silent(struct aside *a, uint64_t now_ms, uint32_t pause_ms)
{
    aside_move(a, ASIDE_SILENT);
    a->again_ms = now_ms + pause_ms;
    a->fine = 0;
}

bool aside_wakes(struct aside *a, uint64_t now_ms)
{
    if (a->state == ASIDE_TRYING || now_ms < a->again_ms)
        return false;
    aside_move(a, ASIDE_TRYING);
    return true;
}

uint32_t aside_room(const struct aside *a, uint32_t window)
{
    if (a->state != ASIDE_TRYING)
        return 0;
    uint32_t most = a->fine < SINGLES ? 1 : a->fine / FINE_FOR_ONE_MORE;
    if (most > window / 2)
        most = window / 2 > 0 ? window / 2 : 1;
    return a->under_way < most ? most - a->under_way : 0;
}
