#include "upstream/window.h"

#include "base/assert.h"

enum { LATER_SHARE = 8 }; /* of what is left, once the first `size` are under way */

uint32_t window_share(const struct window *w, uint64_t destination)
{
    const uint32_t *share = number_map_find(&w->shares, destination);
    return share ? *share : 0;
}

bool window_has_room(const struct window *w, uint64_t destination, uint32_t size)
{
    uint64_t most = 2 * (uint64_t)size - 1;
    if (w->under_way < size)
        return true;
    if (w->under_way >= most)
        return false;
    uint32_t mine = window_share(w, destination);
    return mine == 0 || mine < (most - w->under_way) / LATER_SHARE;
}

void window_take(struct window *w, uint64_t destination, uint32_t count)
{
    *number_map_put(&w->shares, destination) += count;
    w->under_way += count;
}

void window_give_back(struct window *w, uint64_t destination, uint32_t count)
{
    uint32_t *share = number_map_find(&w->shares, destination);
    ENSURE(share && *share >= count);
    w->under_way -= count;
    *share -= count;
    if (*share == 0)
        number_map_remove(&w->shares, destination);
}

void window_clear(struct window *w)
{
    number_map_clear(&w->shares);
    w->under_way = 0;
}
