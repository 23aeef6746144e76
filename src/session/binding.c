#include "session/binding.h"

#include "peer/runtime.h"
#include "pool/pool.h"
#include "pool/spread.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/own_upstream.h"
#include "session/relay.h"
#include "session/transaction.h"

/* RabbitMQ closes a connection for that. A number that is being given back is waited for. */
static enum route no_channel_left(struct client *client, struct refusal *why)
{
    const struct upstream *own = client->own;
    const struct relay *r;
    for (uint32_t at = 0; (r = relay_next(own, &at)) != NULL;)
        if (!r->channel)
            return ROUTE_HELD;
    return route_refuse(why, REFUSED_CLIENT, 530,
                        "NOT_ALLOWED - RabbitMQ allows no more channels on this connection",
                        AMQP_CHANNEL_OPEN_METHOD);
}

static enum route own_relay_for(struct channel *ch, struct refusal *why)
{
    struct client *client = ch->client;
    struct relay *r = ch->relay;
    if (!client_open_own(client))
        return ROUTE_HELD;
    if (r && r->link.upstream != client->own) {
        /* What went out on the shared channel is answered before another one is used (P2). */
        if (!relay_leave(r))
            return ROUTE_HELD;
        r = NULL;
    }
    if (r || relay_bind(ch, client->own, false, false))
        return ROUTE_DONE;
    return no_channel_left(client, why);
}

/* It stays with the relay that it has. */
static bool is_well_bound(const struct channel *ch, bool forgets)
{
    const struct relay *r = ch->relay;
    if (!r || r->moves || r->close != CLOSE_NONE)
        return false;
    const char *limit = pool_channel_limit(ch->client->member.pool);
    bool other_kind = forgets && r->confirming && relay_may_be_left(r) && !limit &&
                      links_have_room(&r->link.upstream->links, true);
    return !other_kind && !(relay_is_spent(r) && !limit);
}

enum route binding_find(struct channel *ch, bool forgets, struct refusal *why)
{
    struct client *client = ch->client;
    if (ch->relay && ch->relay->close != CLOSE_NONE)
        return ROUTE_HELD; /* what is sent behind a close is lost */
    if ((ch->transactional || client->place == CLIENT_APART) && !client->own)
        own_upstream_dial(client);
    if (client->own)
        return own_relay_for(ch, why);
    if (ch->relay && ch->relay->moves && !relay_leave(ch->relay)) {
        if (client_waits(client, MOVE_MS) && !pool_channel_limit(client->member.pool))
            return ROUTE_HELD;
        relay_stay(ch->relay);
    }
    if (is_well_bound(ch, forgets))
        return ROUTE_DONE;
    if (ch->relay && ch->inside_content)
        return ROUTE_HELD; /* the rest of that message comes there */
    if (ch->relay)
        relay_release(ch->relay);
    struct upstream *u = pool_pick_upstream(client->member.pool);
    const char *limit =
        u && u->links.idle_count == 0 ? pool_channel_limit(client->member.pool) : NULL;
    if (limit) {
        return route_refuse(why, REFUSED_CLIENT, 530, limit, AMQP_CHANNEL_OPEN_METHOD);
    }
    return u && relay_bind(ch, u, true, forgets) ? ROUTE_DONE : ROUTE_HELD;
}

bool binding_stays(const struct channel *ch)
{
    const struct client *client = ch->client;
    const struct relay *r = ch->relay;
    if (client->own)
        return r->link.upstream == client_open_own(client) && r->close == CLOSE_NONE;
    return client->place == CLIENT_SHARES && is_well_bound(ch, false);
}

bool binding_take_over(struct channel *ch)
{
    struct pool *pool = ch->client->member.pool;
    if (!transaction_is_sent(ch->tx) || pool->state == POOL_LIVE)
        return true;
    if (ch->relay && !upstream_is_unread(ch->relay->link.upstream))
        return true;
    if (!transaction_is_kept(ch->tx) ||
        (ch->relay && (!relay_is_settled(ch->relay) || ch->consumes || ch->inside_content)))
        return false;
    transaction_move(ch->tx, TRANSACTION_LOCAL);
    if (ch->relay)
        relay_release(ch->relay);
    return true;
}
