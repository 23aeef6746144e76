#include "pool/spread.h"

#include "peer/runtime.h"
#include "pool/connections.h"
#include "pool/pool.h"
#include "upstream/upstream.h"

enum { UPSTREAMS_NEAR = 2, UPSTREAMS_FAR = 8 }; /* pool.upstreams = auto */

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

/* A connection carries in a round trip what its socket and its window hold. Where that is less than
 * publishers bring, more connections carry more. */
static unsigned most(const struct pool *pool, const struct upstream *lightest)
{
    const struct config *config = pool->rt->config;
    if (config->pool.upstreams > 0)
        return config->pool.upstreams;
    return under_way_is_far(&lightest->under_way, config) ? UPSTREAMS_FAR : UPSTREAMS_NEAR;
}

static struct choice choose(const struct pool *pool)
{
    struct choice choice = {0};
    unsigned count = 0, dialing = 0, senders = 0;
    for (struct list *n = pool->upstreams.next; n != &pool->upstreams; n = n->next) {
        struct upstream *u = LIST_ENTRY(n, struct upstream, owner_node);
        if (u->use == UPSTREAM_FOR_DRAIN)
            continue;
        count++;
        dialing += u->state != UPSTREAM_OPEN;
        senders += u->under_way.senders;
        if (has_channel(u) && (!choice.best || is_lighter(&u->under_way, &choice.best->under_way)))
            choice.best = u;
    }
    if (!choice.best)
        choice.may_have_another = dialing == 0;
    else
        choice.may_have_another =
            count < most(pool, choice.best) && (dialing == 0 || count < senders);
    return choice;
}

struct upstream *pool_pick_upstream(struct pool *pool)
{
    struct choice choice = choose(pool);
    if (choice.may_have_another &&
        (!choice.best || under_way_is_busy(&choice.best->under_way, pool->rt->config)))
        connections_want_more(pool, choice.best);
    return choice.best;
}

bool pool_should_move(struct pool *pool, const struct upstream *from, bool sends)
{
    uint32_t others = from->under_way.senders - sends;
    if (others == 0 || runtime_now(pool->rt) < pool->move_ends_ms || pool_channel_limit(pool))
        return false;
    struct choice choice = choose(pool);
    bool is_better =
        choice.best && choice.best != from && choice.best->under_way.senders + 1 <= others;
    if (!is_better && choice.may_have_another)
        connections_want_more(pool, choice.best);
    return is_better;
}
