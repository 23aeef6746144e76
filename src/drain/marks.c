#include "drain/marks.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum {
    KNOWN_MAX = 65536, /* more of them are marked anew */
    FINE_FOR_ONE_MORE = 8,
    BEHIND_MAX =
        128, /* RabbitMQ reads no more of a connection with 400 on a channel that is stuck */
};

void marks_begin(struct marks *m)
{
    m->first = m->end = m->fine = 0;
    number_map_clear(&m->known);
}

void marks_clear(struct marks *m)
{
    free(m->all);
    number_map_clear(&m->known);
    *m = (struct marks){0};
}

bool marks_is_new(struct marks *m, uint64_t destination)
{
    if (number_map_find(&m->known, destination))
        return false;
    if (m->known.used == KNOWN_MAX)
        number_map_clear(&m->known);
    *number_map_put(&m->known, destination) = 1;
    return true;
}

static void make_room(struct marks *m)
{
    uint32_t left = m->end - m->first;
    if (m->first > 0)
        memmove(m->all, m->all + m->first, left * sizeof *m->all);
    m->first = 0;
    m->end = left;
    if (left < m->capacity - m->capacity / 4)
        return;
    m->capacity = m->capacity ? m->capacity * 2 : 64;
    m->all = memory_grow(m->all, m->capacity, sizeof *m->all);
}

void marks_add(struct marks *m, uint64_t tag, bool is_first)
{
    if (m->end == m->capacity)
        make_room(m);
    m->all[m->end++] = (struct mark){tag, is_first};
}

uint64_t marks_answered(struct marks *m)
{
    if (m->first == m->end)
        return 0;
    m->fine += m->all[m->first].is_first;
    return m->all[m->first++].tag;
}

uint64_t marks_stuck_at(const struct marks *m)
{
    return m->first < m->end && m->all[m->first].is_first ? m->all[m->first].tag : 0;
}

bool marks_hold(const struct marks *m, uint64_t last_tag)
{
    uint32_t behind = m->fine / FINE_FOR_ONE_MORE;
    if (m->first == m->end)
        return false;
    const struct mark *oldest = &m->all[m->first];
    return !oldest->is_first ||
           last_tag - oldest->tag >= (behind < BEHIND_MAX ? behind : BEHIND_MAX);
}
