#include "upstream/under_way.h"

#include <uv.h>

#include "base/assert.h"
#include "config/config.h"

enum {
    KEPT_SHARE = 8,
    PLACE_BYTES = 2048, /* for each publish that `auto` allows: more cost more in the caches of a
                           near RabbitMQ's machine and of this one than they save */
};

void under_way_init(struct under_way *u)
{
    *u = (struct under_way){0};
    autotune_init(&u->tuned);
}

void under_way_begin_as(struct under_way *u, const struct under_way *other)
{
    autotune_begin_as(&u->tuned, &other->tuned);
}

void under_way_deinit(struct under_way *u)
{
    window_clear(&u->window);
}

static uint32_t most(const struct under_way *u, const struct config *config)
{
    return config->pool.window > 0 ? config->pool.window : autotune_window(&u->tuned);
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* The rest is kept for destinations to which nothing is under way. */
static uint64_t most_bytes(const struct under_way *u, const struct config *config)
{
    uint64_t all = config->pool.window_bytes - config->pool.window_bytes / KEPT_SHARE;
    return config->pool.window > 0 ? all : smaller(all, (uint64_t)u->tuned.size * PLACE_BYTES);
}

bool under_way_has_room(const struct under_way *u, const struct config *config,
                        uint64_t destination, uint64_t bytes)
{
    if (!window_has_room(&u->window, destination, most(u, config)))
        return false;
    if (u->bytes + bytes <= most_bytes(u, config) || u->bytes == 0)
        return true;
    bool is_new = window_share(&u->window, destination) == 0;
    return is_new && u->bytes + bytes <= config->pool.window_bytes;
}

uint32_t under_way_room(const struct under_way *u, const struct config *config, uint64_t *bytes)
{
    uint32_t window = most(u, config), taken = u->window.under_way;
    uint64_t all = most_bytes(u, config);
    *bytes = u->bytes < all ? all - u->bytes : 0;
    return taken < window ? window - taken : 0;
}

bool under_way_is_busy(const struct under_way *u, const struct config *config)
{
    return u->window.under_way >= most(u, config) / 2 || u->bytes >= most_bytes(u, config) / 2;
}

bool under_way_is_far(const struct under_way *u, const struct config *config)
{
    return config->pool.window == 0 && autotune_is_far(&u->tuned);
}

void under_way_is_full(struct under_way *u)
{
    /* Else it is the socket that is full, and what is confirmed later says nothing of a window. */
    if (u->window.under_way > 0 && autotune_full(&u->tuned))
        autotune_begin_round(&u->tuned, u->window.under_way, uv_hrtime());
}

void under_way_add(struct under_way *u, uint64_t destination, uint32_t count, uint64_t bytes)
{
    window_take(&u->window, destination, count);
    u->bytes += bytes;
}

void under_way_remove(struct under_way *u, uint64_t destination, uint32_t count, uint64_t bytes)
{
    ENSURE(u->bytes >= bytes);
    window_give_back(&u->window, destination, count);
    u->bytes -= bytes;
    if (autotune_settled(&u->tuned, count))
        autotune_end_round(&u->tuned, uv_hrtime());
}
