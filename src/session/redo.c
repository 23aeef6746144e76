#include "session/redo.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/frame.h"
#include "base/memory.h"
#include "pool/pool.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/router.h"

struct call {
    amqp_method_number_t method;
    struct span payload;
};

struct redo {
    struct call *calls; /* in the order in which they were sent */
    uint32_t count;
    uint64_t failures; /* of the pool's dials when the upstream was lost */
};

void redo_add(struct channel *ch, amqp_method_number_t method, struct span *payload)
{
    struct redo *redo = ch->redo;
    if (!redo) {
        redo = ch->redo = memory_grow(NULL, 1, sizeof *redo);
        *redo = (struct redo){.failures = ch->client->member.pool->failures};
    }
    redo->calls = memory_grow(redo->calls, redo->count + 1, sizeof *redo->calls);
    redo->calls[redo->count++] = (struct call){method, *payload};
    *payload = (struct span){0};
    client_hold(ch->client);
}

void redo_drop(struct channel *ch)
{
    struct redo *redo = ch->redo;
    if (!redo)
        return;
    ch->redo = NULL;
    for (uint32_t i = 0; i < redo->count; i++)
        span_clear(&redo->calls[i].payload);
    free(redo->calls);
    free(redo);
}

static void drop_first(struct channel *ch)
{
    struct redo *redo = ch->redo;
    span_clear(&redo->calls[0].payload);
    memmove(redo->calls, redo->calls + 1, --redo->count * sizeof *redo->calls);
    if (redo->count == 0)
        redo_drop(ch);
}

static bool may_go(const struct channel *ch)
{
    struct client *client = ch->client;
    if (client->place == CLIENT_APART && !client->own)
        client_dial_own(client);
    if (client->place == CLIENT_APART)
        return client->own_is_open;
    return pool_is_connected(client->member.pool) ||
           client->member.pool->failures != ch->redo->failures;
}

/* False: it has to wait. The channel may be gone afterwards. */
static bool send_first(struct channel *ch)
{
    struct client *client = ch->client;
    const struct call *call = &ch->redo->calls[0];
    amqp_method_number_t method = call->method;
    struct span payload = span_of(call->payload.slab, call->payload.at, call->payload.len);
    struct frame frame = {.type = FRAME_METHOD,
                          .channel = ch->number,
                          .payload = payload.at,
                          .payload_len = (uint32_t)payload.len};
    enum route route = router_method(ch, payload.slab, &frame, method);
    /* A refusal drops all of them, and perhaps the channel. */
    if (route == ROUTE_DONE && client_channel(client, frame.channel) == ch && ch->redo)
        drop_first(ch);
    span_clear(&payload);
    return route != ROUTE_HELD;
}

bool redo_run(struct client *c)
{
    for (uint32_t i = 1; i < c->channels_capacity; i++)
        while (c->channels[i] && c->channels[i]->redo)
            if (!may_go(c->channels[i]) || !send_first(c->channels[i]))
                return false;
    return true;
}
