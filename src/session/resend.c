#include "session/resend.h"

#include "amqp/frame.h"
#include "amqp/rules.h"
#include "pool/connections.h"
#include "pool/pool.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/method_router.h"
#include "session/offline.h"
#include "session/own_upstream.h"
#include "session/redo.h"
#include "session/refusal.h"
#include "session/router.h"

static bool may_go(const struct channel *ch)
{
    struct client *client = ch->client;
    if (client->place == CLIENT_APART && !client->own)
        own_upstream_dial(client);
    if (client->place == CLIENT_APART)
        return client_open_own(client) != NULL;
    return connections_are_open(client->member.pool) ||
           client->member.pool->failures != redo_failures(ch->redo);
}

/* False: it has to wait. The channel may be gone afterwards. */
static bool send_first(struct channel *ch)
{
    struct client *client = ch->client;
    const struct redo_call *call = redo_first(ch->redo);
    amqp_method_number_t method = call->method;
    bool is_end = rule_has(method, RULE_ENDS);
    if (is_end && channel_is_owed(ch))
        return false; /* replies keep their order */
    if (is_end && offline_lost_end(ch, method)) {
        redo_drop_first(&ch->redo);
        return true;
    }
    struct span payload = span_of(call->payload.slab, call->payload.at, call->payload.len);
    struct frame frame = {.type = FRAME_METHOD,
                          .channel = ch->number,
                          .payload = payload.at,
                          .payload_len = (uint32_t)payload.len};
    struct refusal why;
    enum route route = method_router_take(ch, payload.slab, &frame, method, &why);
    if (route == ROUTE_REFUSED)
        refusal_say(&why, ch);
    /* A refusal drops all of them, and perhaps the channel. */
    if (route == ROUTE_DONE && client_channel(client, frame.channel) == ch && ch->redo)
        redo_drop_first(&ch->redo);
    span_clear(&payload);
    return route != ROUTE_HELD;
}

bool resend_run(struct client *c)
{
    for (uint32_t i = 1; i < c->channels_capacity; i++)
        while (c->channels[i] && c->channels[i]->redo)
            if (!may_go(c->channels[i]) || !send_first(c->channels[i]))
                return false;
    return true;
}
