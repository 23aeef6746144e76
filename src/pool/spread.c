#include "pool/spread.h"

#include "peer/runtime.h"
#include "pool/connections.h"
#include "pool/pool.h"
#include "upstream/upstream.h"

struct choice {
    struct upstream *best; /* NULL: none is open and has a channel left */
    bool may_have_another;
};

static bool is_lighter(const struct under_way *a, const struct under_way *b)
{
    return a->senders != b->senders ? a->senders < b->senders
                                    : a->window.under_way < b->window.under_way;
}

static bool has_channel(const struct upstream *u)
{
    return u->state == UPSTREAM_OPEN && !upstream_is_unread(u) &&
           (links_have_room(&u->links, true) || u->links.idle_count > 0);
}

static struct choice choose(const struct pool *pool)
{
    struct choice choice = {0};
    unsigned count = 0;
    bool dialing = false;
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = n->next) {
        struct upstream *u = LIST_ENTRY(n, struct upstream, owner_node);
        if (u->use == UPSTREAM_FOR_DRAIN)
            continue;
        count++;
        dialing = dialing || u->state != UPSTREAM_OPEN;
        if (has_channel(u) && (!choice.best || is_lighter(&u->under_way, &choice.best->under_way)))
            choice.best = u;
    }
    choice.may_have_another =
        !dialing && (!choice.best || count < pool->rt->config->pool.upstreams);
    return choice;
}

struct upstream *pool_pick_upstream(struct pool *pool)
{
    struct choice choice = choose(pool);
    if (choice.may_have_another &&
        (!choice.best || under_way_is_busy(&choice.best->under_way, pool->rt->config)))
        connections_want_more(pool);
    return choice.best;
}

bool pool_should_move(struct pool *pool, const struct upstream *from, bool sends)
{
    uint32_t others = from->under_way.senders - sends;
    if (others == 0 || runtime_now(pool->rt) < pool->move_ends_ms || pool_channel_limit(pool))
        return false;
    struct choice choice = choose(pool);
    if (choice.may_have_another)
        connections_want_more(pool);
    return choice.best && choice.best != from && choice.best->under_way.senders + 1 <= others;
}
