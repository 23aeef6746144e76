#include "session/keeping.h"

#include "base/handles.h"
#include "peer/runtime.h"
#include "pool/doubt.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "session/channel.h"
#include "session/client.h"

static struct lot lot_of(const struct retained *entry)
{
    return (struct lot){entry->destination, 1, entry->bytes};
}

void keeping_opened(struct relay *r, const struct lot *lot)
{
    struct under_way *under_way = &r->link.upstream->under_way;
    under_way_add(under_way, lot->destination, lot->count, lot->bytes);
    under_way->senders += r->open == 0;
    r->open += lot->count;
    r->channel->client->retained += lot->count;
    r->pool->queue->retained += lot->count;
}

void keeping_closed(struct relay *r, const struct lot *lot)
{
    if (lot->count == 0)
        return;
    struct client *client = handles_get(r->client);
    if (client)
        client->retained -= lot->count;
    r->open -= lot->count;
    if (r->link.upstream) {
        struct under_way *under_way = &r->link.upstream->under_way;
        under_way_remove(under_way, lot->destination, lot->count, lot->bytes);
        under_way->senders -= r->open == 0;
    }
    r->pool->queue->retained -= lot->count;
}

struct retained *keeping_add(struct relay *r, uint64_t client_tag, uint64_t destination,
                             size_t bytes)
{
    struct retained *entry = unconfirmed_add(&r->unconfirmed);
    entry->stamp = ++r->pool->rt->next_stamp;
    entry->client_tag = client_tag;
    entry->sent_ms = runtime_now(r->pool->rt);
    entry->destination = destination;
    entry->bytes = (uint32_t)bytes;
    return entry;
}

void keeping_retain(struct relay *r, struct message *message, uint64_t client_tag,
                    uint64_t destination)
{
    struct retained *entry = keeping_add(r, client_tag, destination, message_bytes(message));
    if (runtime_buffers(r->pool->rt))
        retained_keep(entry, message);
    else
        message_clear(message);
    struct lot lot = lot_of(entry);
    keeping_opened(r, &lot);
}

void keeping_forget(struct relay *r, struct retained *entry)
{
    struct lot lot = lot_of(entry);
    retained_drop(entry);
    keeping_closed(r, &lot);
}

struct publisher keeping_publisher(const struct relay *r)
{
    return (struct publisher){.channel = r->channel ? r->channel->handle : 0, .client = r->client};
}

void keeping_doubt(struct relay *r, struct retained *entry)
{
    struct message message;
    retained_take(entry, &message);
    keeping_forget(r, entry);
    retained_move(entry, RETAINED_DOUBTED);
    entry->doubt = doubt_new(r->pool, keeping_publisher(r), &message, entry->client_tag);
}

/* The upstream channel is gone. */
static void drop(struct relay *r, struct retained *entry)
{
    if (entry->state == RETAINED_OPEN)
        keeping_forget(r, entry);
    else if (entry->state == RETAINED_DOUBTED)
        doubt_lost(entry->doubt);
}

/* Proven, or lost; then their client is told. */
static void forget_unproven(struct relay *r)
{
    struct client *client = handles_get(r->client);
    if (client)
        client->retained -= r->unproven;
    r->unproven = 0;
}

void keeping_drop_all(struct relay *r)
{
    forget_unproven(r);
    while (r->unconfirmed.count > 0) {
        drop(r, unconfirmed_at(&r->unconfirmed, 0));
        unconfirmed_drop_oldest(&r->unconfirmed);
    }
    calls_deinit(&r->calls);
}
