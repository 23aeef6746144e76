#include "proxy/memory_limit.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/slab.h"
#include "peer/budget.h"
#include "pool/held.h"
#include "pool/pool.h"
#include "proxy/proxy_struct.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/transaction.h"
#include "spooler/job.h"

struct holder {
    struct client *client;
    size_t bytes;
};

static uint64_t limit_of(const struct proxy *proxy)
{
    return proxy->rt.config->listen.max_memory_bytes;
}

static size_t unfinished_bytes(const struct client *client)
{
    size_t bytes = stream_held_bytes(&client->stream) + client->channel_count * CHANNEL_KEPT_BYTES +
                   client->channels_capacity * sizeof(struct channel *);
    const struct upstream *own = client_open_own(client);
    if (own && stream_is_paused(&own->stream)) /* it does not read, and so hears of no confirm */
        bytes += own->under_way.bytes;
    for (uint32_t i = 0; i < client->channels_capacity; i++) {
        const struct channel *ch = client->channels[i];
        if (!ch)
            continue;
        bytes += slab_share(ch->content.gathering) + message_held_bytes(&ch->content.message);
        if (ch->tx)
            bytes += transaction_held_bytes(ch->tx);
    }
    return bytes;
}

static int most_first(const void *a, const void *b)
{
    size_t left = ((const struct holder *)a)->bytes, right = ((const struct holder *)b)->bytes;
    return (left < right) - (left > right);
}

static void refuse(struct client *client)
{
    if (client->state < CLIENT_OPEN || client->state >= CLIENT_LEAVING)
        client_close(client, "listen.max_memory reached");
    else
        client_refuse(client, 506,
                      "RESOURCE_ERROR - listen.max_memory reached, and this connection keeps most "
                      "of it unfinished",
                      0);
}

static void refuse_who_hold_most(struct proxy *proxy)
{
    struct holder *holders = calloc(proxy->rt.counters.clients + 1, sizeof *holders);
    ENSURE(holders);
    size_t count = 0, bytes = 0;
    for (struct list *n = proxy->clients.all.next; n != &proxy->clients.all; n = n->next) {
        struct client *client = LIST_ENTRY(n, struct client, node);
        if (client->state == CLIENT_CLOSED)
            continue;
        holders[count] = (struct holder){client, unfinished_bytes(client)};
        bytes += holders[count++].bytes;
    }
    if (bytes > limit_of(proxy) / 2)
        qsort(holders, count, sizeof *holders, most_first);
    for (size_t i = 0; i < count && bytes > limit_of(proxy) / 2; i++) {
        bytes -= holders[i].bytes;
        refuse(holders[i].client);
    }
    free(holders);
}

void memory_limit_look(struct proxy *proxy)
{
    if (!budget_is_short(&proxy->rt))
        return;
    refuse_who_hold_most(proxy); /* also just below it: nobody else may be left to end the wait */
    if (!budget_recovers(&proxy->rt))
        return;
    for (struct list *n = proxy->pools.all.next; n != &proxy->pools.all; n = n->next)
        held_wake(LIST_ENTRY(n, struct pool, node));
}
