#include "session/router.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/destination.h"
#include "amqp/field.h"
#include "base/assert.h"
#include "peer/budget.h"
#include "peer/reply.h"
#include "peer/runtime.h"
#include "pool/append.h"
#include "pool/connections.h"
#include "pool/doubt.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "pool/spread.h"
#include "session/binding.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/own_upstream.h"
#include "session/relay.h"
#include "session/transaction.h"
#include "session/way.h"
#include "upstream/shareable.h"

enum { CHANNEL_WAIT_MS = 1000 };

/* Its client does not read, so RabbitMQ's confirms are not read either. The window would hold what
 * it publishes until it reads, and many read only when they have published; memory_limit.c ends
 * that. */
static bool is_unheard_by_its_client(const struct relay *r)
{
    return !r->shared && stream_is_paused(&r->link.upstream->stream);
}

static bool is_full(const struct relay *r, const struct message *message, uint64_t destination)
{
    const struct upstream *u = r->link.upstream;
    return stream_is_full(&u->stream) ||
           (r->confirming && !is_unheard_by_its_client(r) &&
            !under_way_has_room(&u->under_way, u->rt->config, destination, message_bytes(message)));
}

/* Direct reply-to: a request, which RabbitMQ takes on the channel that consumes its answer alone,
 * or an answer, which it takes while that channel is there. Without an upstream of its own an
 * answer gets one. In a transaction it is RabbitMQ's part, as the acks there are, or else it would
 * never be committed. */
static bool is_direct(const struct channel *ch)
{
    const struct span *method = &ch->content.message.method, *header = &ch->content.message.header;
    const struct client *client = ch->client;
    bool has_own = ch->relay && !ch->relay->shared;
    bool may_have = connections_are_open(client->member.pool) && !own_upstream_is_lacking(client);
    if (!header->slab || (!has_own && !may_have) ||
        (ch->transactional && !(has_own && relay_has_acks(ch->relay))))
        return false;
    return (has_own && ch->consumes && field_is_direct_reply(header->at, header->len)) ||
           !shareable_publish(method->at, method->len, header->at, header->len);
}

/* Without a destination (0), which is not known yet, for any. Inlined, so that what a caller's
 * decision does not look at is not collected. */
__attribute__((always_inline)) static inline struct facts facts_of(const struct channel *ch,
                                                                   uint64_t destination)
{
    const struct client *client = ch->client;
    const struct pool *pool = client->member.pool;
    const struct relay *r = ch->relay;
    struct queue *queue = pool->queue;
    bool spools = route_spools(pool), is_leaving = client->state == CLIENT_LEAVING;
    bool needs_disk = spools && (pool->state != POOL_LIVE || is_leaving);
    bool is_doubted = destination && backlog_holds(&queue->backlog, destination);
    bool is_blocked = r && r->link.upstream->blocked;
    bool is_live = pool->state == POOL_LIVE && !is_doubted && !is_blocked; /* anyway */
    bool goes_direct = destination && !is_live && is_direct(ch);
    return (struct facts){
        .pool = pool->state,
        .memory_is_short = !destination && budget_is_short(pool->rt),
        .spools = spools,
        .has_place = !runtime_buffers(pool->rt) ||
                     (destination ? queue_has_room_for(queue, destination) : queue_has_room(queue)),
        .disk_has_room = needs_disk && spooler_has_room(pool->rt->spooler),
        .holds = pool->state == POOL_DRAINING && queue_holds(queue),
        .queue_retains = queue->retained > 0,
        .is_leaving = is_leaving,
        .retains = client->retained > 0,
        .channel_retains = r && r->open > 0,
        .is_transactional = ch->transactional,
        .is_doubted = is_doubted,
        .is_blocked = is_blocked && !(goes_direct && r->shared), /* it leaves that one */
        .is_direct = goes_direct,
    };
}

/* A place is taken by a complete publish alone: one that has begun and does not go on takes
 * nobody's. */
enum route router_begin_publish(struct channel *ch, const struct publish *publish,
                                struct refusal *why)
{
    if (publish->immediate) {
        return route_refuse(why, REFUSED_CLIENT, 540, "NOT_IMPLEMENTED - immediate=true",
                            AMQP_BASIC_PUBLISH_METHOD);
    }
    struct facts facts = facts_of(ch, 0);
    char what[64];
    switch (way_of_begin(&facts)) {
    case WAY_HELD:
        return ROUTE_HELD;
    case WAY_NACKED:
        ch->rejecting = true;
        return ROUTE_DONE;
    case WAY_LOST:
        return route_refuse_offline(why);
    case WAY_BUFFER_FULL:
        return route_refuse_full(ch, route_buffer_is_full(ch->client->member.pool, what),
                                 AMQP_BASIC_PUBLISH_METHOD, why);
    case WAY_DISK_FULL:
        return route_refuse_full(ch, "the spool has no room", AMQP_BASIC_PUBLISH_METHOD, why);
    default:
        break;
    }
    if (facts.spools && !facts.is_leaving)
        client_tell_blocked(ch->client, false, NULL);
    return ROUTE_DONE;
}

static uint64_t take_tag(struct channel *ch)
{
    return ch->confirming ? ledger_add(&ch->ledger) : 0;
}

/* Transient, of a client that asks for no answer: pool.confirm_transient. On a channel that has
 * published anything else all is confirmed, or their order would be lost; and so it is for who has
 * consumers there, whose channel cannot be closed to prove what was read. */
static bool may_be_forgotten(struct channel *ch)
{
    const struct config *config = ch->client->member.pool->rt->config;
    const struct message *message = &ch->content.message;
    bool is_mandatory = message->method.at[message->method.len - 1] & 1;
    bool is_apart = ch->client->own || ch->client->place == CLIENT_APART;
    if (config->pool.confirm_transient || ch->confirming || ch->transactional || ch->keeps_all)
        return false;
    ch->keeps_all =
        is_mandatory || is_apart || field_is_persistent(message->header.at, message->header.len);
    return !ch->keeps_all;
}

/* What nothing confirms is on its way to RabbitMQ still, which reads: a close proves it first (P2).
 */
static bool must_be_proven(const struct channel *ch)
{
    const struct relay *r = ch->relay;
    return r && r->shared && relay_is_unheard(r) && ch->client->state == CLIENT_OPEN &&
           !upstream_is_unread(r->link.upstream);
}

static enum route publish_spooled(struct channel *ch)
{
    struct pool *pool = ch->client->member.pool;
    if (spooler_is_full(pool->rt->spooler))
        return ROUTE_HELD;
    if (must_be_proven(ch) && !relay_leave(ch->relay) &&
        client_waits(ch->client, pool->rt->config->pool.confirm_timeout_ms))
        return ROUTE_HELD;
    may_be_forgotten(ch); /* or nothing that follows is */
    append_publish(pool, channel_publisher(ch), &ch->content.message, take_tag(ch));
    return ROUTE_DONE;
}

/* A client that wants confirms, and a broker that gives none: the spool's commit is one, and the
 * drain proves the rest with its close. */
static enum route publish_unconfirmed(struct channel *ch, struct refusal *why)
{
    if (route_spools(ch->client->member.pool))
        return publish_spooled(ch);
    return route_refuse(why, REFUSED_CLIENT, 540,
                        "NOT_IMPLEMENTED - the broker offers no publisher confirms",
                        AMQP_CONFIRM_SELECT_METHOD);
}

/* All channel numbers are taken, and RabbitMQ allows no further connection: a drain has a number of
 * its own, and does not need one for each client. */
static bool has_waited_for_a_channel(const struct channel *ch)
{
    struct client *client = ch->client;
    return !client->own && !ch->relay && route_spools(client->member.pool) &&
           !client_waits(client, CHANNEL_WAIT_MS);
}

/* A publish that RabbitMQ is known to end connections over goes alone, with its client. */
static void set_apart_if_wild(struct channel *ch)
{
    const struct message *message = &ch->content.message;
    if (ch->client->place == CLIENT_SHARES &&
        !shareable_publish(message->method.at, message->method.len, message->header.at,
                           message->header.len))
        client_set_apart(ch->client);
}

/* It has to wait where it is, and another upstream has more room for it. What is not confirmed to
 * the proxy would not be in order there. */
static bool may_move(const struct relay *r)
{
    return r->shared && r->confirming && !r->forgets && !r->moves &&
           runtime_now(r->pool->rt) >= r->stays_until_ms &&
           pool_should_move(r->pool, r->link.upstream, r->open > 0);
}

static enum route publish_live(struct channel *ch, uint64_t destination, struct refusal *why)
{
    struct message *message = &ch->content.message;
    set_apart_if_wild(ch);
    bool forgets = may_be_forgotten(ch);
    enum route bound = binding_find(ch, forgets, why);
    if (bound == ROUTE_HELD && has_waited_for_a_channel(ch))
        return publish_spooled(ch);
    if (bound != ROUTE_DONE)
        return bound;
    struct relay *r = ch->relay;
    if (r->link.upstream->blocked && !runtime_buffers(r->pool->rt))
        client_tell_alarm(ch->client, true); /* who has come in the alarm, as RabbitMQ would */
    if (is_full(r, message, destination)) {
        under_way_is_full(&r->link.upstream->under_way);
        if (!may_move(r))
            return ROUTE_HELD;
        relay_move(r);
        bound = binding_find(ch, forgets, why);
        if (bound != ROUTE_DONE)
            return bound;
        r = ch->relay;
        if (is_full(r, message, destination))
            return ROUTE_HELD;
    }
    if (ch->confirming && !r->link.upstream->offers_confirms)
        return publish_unconfirmed(ch, why);
    uint32_t frame_max = r->link.upstream->frame_max;
    if (!frame_fits(message->header.len, frame_max)) {
        return route_refuse(why, REFUSED_CLIENT, 501,
                            "FRAME_ERROR - content header larger than RabbitMQ's frame_max",
                            AMQP_BASIC_PUBLISH_METHOD);
    }
    uint64_t tag = ch->confirming ? ledger_next_tag(&ch->ledger) : 0;
    if (!relay_publish(r, message, tag, destination, forgets)) {
        return route_refuse(why, REFUSED_CLIENT, 506,
                            "RESOURCE_ERROR - out of memory for this message",
                            AMQP_BASIC_PUBLISH_METHOD);
    }
    take_tag(ch);
    return ROUTE_DONE;
}

/* RabbitMQ is there, and the channel's acks belong to its transactions: so do its publishes. */
static bool has_its_transactions_there(const struct channel *ch)
{
    const struct queue *queue = ch->client->member.pool->queue;
    return ch->relay && relay_has_acks(ch->relay) &&
           !upstream_is_unread(ch->relay->link.upstream) && queue_stores_first(queue) &&
           !queue_has_backlog(queue);
}

/* Nothing can be stored, perhaps only for now: the transaction is RabbitMQ's to its end. */
static enum route publish_there(struct channel *ch, uint64_t destination, struct refusal *why)
{
    enum route route = publish_live(ch, destination, why);
    if (route == ROUTE_DONE && !ch->tx)
        ch->tx = transaction_new_there(ch->client->member.pool);
    return route;
}

/* Beside what is in doubt all of it goes to the spool: of each destination older ones may wait
 * there, and once RabbitMQ has begun to get it, it cannot change. What cannot be stored waits for
 * those of its own destination alone (way.c). */
static bool may_be_sent(const struct channel *ch)
{
    const struct pool *pool = ch->client->member.pool;
    bool is_live = pool->state == POOL_LIVE &&
                   !(route_spools(pool) && doubts_any(&pool->queue->backlog.doubts));
    return is_live || has_its_transactions_there(ch);
}

/* A transaction that is in the proxy alone ends in the spool, whatever happens meanwhile; if
 * nothing is stored there any more, it cannot. */
static enum route publish_transactional(struct channel *ch, uint64_t destination,
                                        struct refusal *why)
{
    struct pool *pool = ch->client->member.pool;
    if (!binding_take_over(ch))
        return ROUTE_HELD;
    bool live = transaction_is_sent(ch->tx) || (!ch->tx && may_be_sent(ch));
    if (!route_spools(pool))
        return live                                    ? publish_there(ch, destination, why)
               : ch->tx || pool->state == POOL_OFFLINE ? route_refuse_offline(why)
                                                       : ROUTE_HELD;
    if (!ch->tx)
        ch->tx = transaction_new(pool, channel_publisher(ch));
    if (!live) {
        transaction_keep(ch->tx, &ch->content.message);
        return ROUTE_DONE;
    }
    if (!transaction_is_sent(ch->tx))
        transaction_move(ch->tx, TRANSACTION_SENT);
    return publish_live(ch, destination, why);
}

static enum route nack(struct channel *ch)
{
    ch->rejecting = false;
    message_clear(&ch->content.message);
    if (ch->client->state != CLIENT_LEAVING) /* it hears nothing more of single messages */
        channel_nack(ch, take_tag(ch));
    return ROUTE_DONE;
}

enum route router_publish(struct channel *ch, struct refusal *why)
{
    const struct span *method = &ch->content.message.method;
    if (ch->rejecting)
        return nack(ch);
    uint64_t destination = destination_of(method->at, method->len);
    struct facts facts = facts_of(ch, destination);
    char what[64];
    enum route route;
    switch (way_of_publish(&facts)) {
    case WAY_LIVE:
        return publish_live(ch, destination, why);
    case WAY_SPOOL:
        return publish_spooled(ch);
    case WAY_TRANSACTION:
        return publish_transactional(ch, destination, why);
    case WAY_NACKED:
        return nack(ch);
    case WAY_LOST:
        return route_refuse_offline(why);
    case WAY_BUFFER_FULL:
        route = route_refuse_full(ch, route_buffer_is_full(ch->client->member.pool, what),
                                  AMQP_BASIC_PUBLISH_METHOD, why);
        return route == ROUTE_DONE ? nack(ch) : route;
    default:
        if (facts.is_direct && facts.is_blocked) /* until the end of the alarm, as at RabbitMQ */
            client_tell_alarm(ch->client, true);
        return ROUTE_HELD;
    }
}

uint32_t router_room_alike(const struct channel *ch, uint64_t *bytes)
{
    const struct pool *pool = ch->client->member.pool;
    const struct config *config = pool->rt->config;
    const struct relay *r = ch->relay;
    bool may_forget = !config->pool.confirm_transient && !ch->keeps_all && !ch->confirming;
    if (!r->confirming || ch->rejecting || may_forget || !binding_stays(ch) ||
        stream_is_full(&r->link.upstream->stream))
        return 0;
    struct facts begin = facts_of(ch, 0),
                 whole = facts_of(ch, unconfirmed_last(&r->unconfirmed)->destination);
    if (way_of_begin(&begin) != WAY_ON || way_of_publish(&whole) != WAY_LIVE)
        return 0;
    uint32_t room = under_way_room(&r->link.upstream->under_way, config, bytes);
    uint64_t places = runtime_buffers(pool->rt) ? queue_room(pool->queue) : UINT32_MAX;
    return places < room ? (uint32_t)places : room;
}

bool router_must_wait(const struct channel *ch)
{
    const struct pool *pool = ch->client->member.pool;
    const struct message *message = &ch->content.message;
    const struct relay *r = ch->relay;
    if (!r || pool->state != POOL_LIVE || r->link.upstream->blocked)
        return false;
    if (r->moves)
        return !relay_may_be_left(r) && client_waits(ch->client, MOVE_MS);
    uint64_t destination = destination_of(message->method.at, message->method.len);
    return is_full(r, message, destination) && !may_move(r) &&
           !backlog_holds(&pool->queue->backlog, destination);
}
