#include "session/router.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/destination.h"
#include "amqp/field.h"
#include "amqp/rules.h"
#include "base/assert.h"
#include "base/log.h"
#include "base/test_switch.h"
#include "peer/reply.h"
#include "peer/runtime.h"
#include "peer/send.h"
#include "pool/append.h"
#include "pool/connections.h"
#include "pool/doubt.h"
#include "pool/pool.h"
#include "pool/pool_state.h"
#include "pool/queue.h"
#include "pool/spread.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/offline.h"
#include "session/own_upstream.h"
#include "session/refusal.h"
#include "session/relay.h"
#include "session/rewrite.h"
#include "session/transaction.h"
#include "session/way.h"
#include "upstream/shareable.h"

enum { CHANNEL_WAIT_MS = 1000 };

static enum route refuse(struct refusal *why, enum refused whom, uint16_t code, const char *text,
                         amqp_method_number_t cause)
{
    refusal_set(why, whom, code, text, cause);
    return ROUTE_REFUSED;
}

/* ---- which upstream channel ---- */

/* RabbitMQ closes a connection for that. A number that is being given back is waited for. */
static enum route no_channel_left(struct client *client, struct refusal *why)
{
    const struct upstream *own = client->own;
    const struct relay *r;
    for (uint32_t at = 0; (r = relay_next(own, &at)) != NULL;)
        if (!r->channel)
            return ROUTE_HELD;
    return refuse(why, REFUSED_CLIENT, 530,
                  "NOT_ALLOWED - RabbitMQ allows no more channels on this connection",
                  AMQP_CHANNEL_OPEN_METHOD);
}

static enum route own_relay_for(struct channel *ch, struct refusal *why)
{
    struct client *client = ch->client;
    struct relay *r = ch->relay;
    if (!client->own_is_open)
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
    if (!r || r->moves)
        return false;
    const char *limit = pool_channel_limit(ch->client->member.pool);
    bool other_kind = forgets && r->confirming && relay_may_be_left(r) && !limit &&
                      links_have_room(&r->link.upstream->links, true);
    return !other_kind && !(relay_is_spent(r) && !limit);
}

/* Binds the channel to a relay on the upstream where it belongs. */
static enum route relay_for(struct channel *ch, bool forgets, struct refusal *why)
{
    struct client *client = ch->client;
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
    if (ch->relay)
        relay_release(ch->relay);
    struct upstream *u = pool_pick_upstream(client->member.pool);
    const char *limit =
        u && u->links.idle_count == 0 ? pool_channel_limit(client->member.pool) : NULL;
    if (limit) {
        return refuse(why, REFUSED_CLIENT, 530, limit, AMQP_CHANNEL_OPEN_METHOD);
    }
    return u && relay_bind(ch, u, true, forgets) ? ROUTE_DONE : ROUTE_HELD;
}

static bool is_full(const struct relay *r, const struct message *message, uint64_t destination)
{
    const struct upstream *u = r->link.upstream;
    return stream_is_full(&u->stream) ||
           (r->confirming &&
            !under_way_has_room(&u->under_way, u->rt->config, destination, message_bytes(message)));
}

/* ---- publishes ---- */

static bool spool_is_usable(const struct pool *pool)
{
    return runtime_buffers(pool->rt) && pool->queue->backlog.id;
}

static enum route refuse_offline(struct refusal *why)
{
    return refuse(why, REFUSED_CLIENT, 320, LOST_RABBITMQ, AMQP_BASIC_PUBLISH_METHOD);
}

static enum route refuse_full(struct channel *ch, const char *what, amqp_method_number_t method,
                              struct refusal *why)
{
    struct pool *pool = ch->client->member.pool;
    const struct config *config = pool->rt->config;
    if (config->spool.overflow == OVERFLOW_BLOCK) {
        client_tell_blocked(ch->client, true, what);
        return ROUTE_HELD;
    }
    char text[96];
    snprintf(text, sizeof text, "RESOURCE_ERROR - %s", what);
    pool->rt->counters.queue_full++;
    LOG_OFTEN(LOG_WARN, "queue_full", LOG_T("user", pool->user), LOG_T("vhost", pool->vhost),
              LOG_T("reason", what), LOG_N("messages", queue_used(pool->queue)),
              LOG_T("client", ch->client->peer));
    if (config->spool.overflow == OVERFLOW_DISCONNECT) {
        return refuse(why, REFUSED_LEAVING, 506, text, method);
    }
    if (!ch->confirming || method != AMQP_BASIC_PUBLISH_METHOD) {
        return refuse(why, REFUSED_CHANNEL, 506, text, method);
    }
    ch->rejecting = true;
    return ROUTE_DONE;
}

static const char *buffer_is_full(const struct pool *pool, char text[64])
{
    snprintf(text, 64, "publish buffer full (%llu messages)",
             (unsigned long long)pool->rt->config->pool.publish_buffer_size);
    return text;
}

static const char *why_full(const struct pool *pool, char text[64])
{
    if (!queue_has_room(pool->queue))
        return buffer_is_full(pool, text);
    return spooler_has_room(pool->rt->spooler) ? NULL : "the spool has no room";
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
    bool spools = spool_is_usable(pool), is_leaving = client->state == CLIENT_LEAVING;
    bool needs_disk = spools && (pool->state != POOL_LIVE || is_leaving);
    return (struct facts){
        .pool = pool->state,
        .memory_is_short = !destination && budget_is_short(pool->rt),
        .spools = spools,
        .has_place = destination ? queue_has_room_for(queue, destination) : queue_has_room(queue),
        .disk_has_room = needs_disk && spooler_has_room(pool->rt->spooler),
        .holds = pool->state == POOL_DRAINING && queue_holds(queue),
        .queue_retains = queue->retained > 0,
        .is_leaving = is_leaving,
        .retains = client->retained > 0,
        .channel_retains = r && r->open > 0,
        .is_transactional = ch->transactional,
        .is_doubted = spools && destination && doubts_hold(&queue->backlog.doubts, destination),
        .is_blocked = r && r->link.upstream->blocked,
    };
}

/* A place is taken by a complete publish alone: one that has begun and does not go on takes
 * nobody's. */
enum route router_begin_publish(struct channel *ch, const struct publish *publish,
                                struct refusal *why)
{
    if (publish->immediate) {
        return refuse(why, REFUSED_CLIENT, 540, "NOT_IMPLEMENTED - immediate=true",
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
        return refuse_offline(why);
    case WAY_BUFFER_FULL:
        return refuse_full(ch, buffer_is_full(ch->client->member.pool, what),
                           AMQP_BASIC_PUBLISH_METHOD, why);
    case WAY_DISK_FULL:
        return refuse_full(ch, "the spool has no room", AMQP_BASIC_PUBLISH_METHOD, why);
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
 * published anything else all is confirmed, or their order would be lost. */
static bool may_be_forgotten(struct channel *ch)
{
    const struct config *config = ch->client->member.pool->rt->config;
    const struct message *message = &ch->content.message;
    bool is_mandatory = message->method.at[message->method.len - 1] & 1;
    if (config->pool.confirm_transient || ch->confirming || ch->transactional || ch->keeps_all)
        return false;
    ch->keeps_all = is_mandatory || field_is_persistent(message->header.at, message->header.len);
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
    if (spool_is_usable(ch->client->member.pool))
        return publish_spooled(ch);
    return refuse(why, REFUSED_CLIENT, 540,
                  "NOT_IMPLEMENTED - the broker offers no publisher confirms",
                  AMQP_CONFIRM_SELECT_METHOD);
}

/* All channel numbers are taken, and RabbitMQ allows no further connection: a drain has a number of
 * its own, and does not need one for each client. */
static bool has_waited_for_a_channel(const struct channel *ch)
{
    struct client *client = ch->client;
    return !client->own && !ch->relay && spool_is_usable(client->member.pool) &&
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
    enum route bound = relay_for(ch, forgets, why);
    if (bound == ROUTE_HELD && has_waited_for_a_channel(ch))
        return publish_spooled(ch);
    if (bound != ROUTE_DONE)
        return bound;
    struct relay *r = ch->relay;
    if (is_full(r, message, destination)) {
        under_way_is_full(&r->link.upstream->under_way);
        if (!may_move(r))
            return ROUTE_HELD;
        relay_move(r);
        bound = relay_for(ch, forgets, why);
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
        return refuse(why, REFUSED_CLIENT, 501,
                      "FRAME_ERROR - content header larger than RabbitMQ's frame_max",
                      AMQP_BASIC_PUBLISH_METHOD);
    }
    uint64_t tag = ch->confirming ? ledger_next_tag(&ch->ledger) : 0;
    if (!relay_publish(r, message, tag, destination, forgets)) {
        return refuse(why, REFUSED_CLIENT, 506, "RESOURCE_ERROR - out of memory for this message",
                      AMQP_BASIC_PUBLISH_METHOD);
    }
    take_tag(ch);
    return ROUTE_DONE;
}

static bool is_sent(const struct channel *ch)
{
    return ch->tx && transaction_state(ch->tx) == TRANSACTION_SENT;
}

/* A transaction that RabbitMQ has begun to get goes on there, whatever becomes of the pool's other
 * upstreams, unless an alarm blocks this one: then what RabbitMQ has is given up with its channel,
 * and it goes on here, from the copies. False: the client has to wait, because something is awaited
 * on that channel, or it consumes. */
static bool take_over_transaction(struct channel *ch)
{
    struct pool *pool = ch->client->member.pool;
    if (!is_sent(ch) || pool->state == POOL_LIVE)
        return true;
    if (ch->relay && !upstream_is_unread(ch->relay->link.upstream))
        return true;
    if (ch->relay && (!relay_is_settled(ch->relay) || ch->consumes))
        return false;
    transaction_move(ch->tx, TRANSACTION_LOCAL);
    if (ch->relay)
        relay_release(ch->relay);
    return true;
}

/* RabbitMQ is there, and the channel's acks belong to its transactions: so do its publishes. */
static bool has_its_transactions_there(const struct channel *ch)
{
    const struct relay *r = ch->relay;
    const struct queue *queue = ch->client->member.pool->queue;
    return ch->consumes && r && r->transactional && !upstream_is_unread(r->link.upstream) &&
           queue_stores_first(queue) && !queue_has_backlog(queue);
}

/* A transaction that is in the proxy alone ends in the spool, whatever happens meanwhile. */
static enum route publish_transactional(struct channel *ch, uint64_t destination,
                                        struct refusal *why)
{
    struct pool *pool = ch->client->member.pool;
    if (!take_over_transaction(ch))
        return ROUTE_HELD;
    bool live =
        is_sent(ch) || (!ch->tx && (pool->state == POOL_LIVE || has_its_transactions_there(ch)));
    if (!spool_is_usable(pool))
        return live                          ? publish_live(ch, destination, why)
               : pool->state == POOL_OFFLINE ? refuse_offline(why)
                                             : ROUTE_HELD;
    if (!ch->tx)
        ch->tx = transaction_new(pool, channel_publisher(ch));
    if (!live) {
        transaction_keep(ch->tx, &ch->content.message);
        return ROUTE_DONE;
    }
    if (!is_sent(ch))
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
        return refuse_offline(why);
    case WAY_BUFFER_FULL:
        route = refuse_full(ch, buffer_is_full(ch->client->member.pool, what),
                            AMQP_BASIC_PUBLISH_METHOD, why);
        return route == ROUTE_DONE ? nack(ch) : route;
    default:
        return ROUTE_HELD;
    }
}

/* The relay is the one that relay_for would give it. */
static bool is_bound_well(const struct channel *ch)
{
    const struct client *client = ch->client;
    const struct relay *r = ch->relay;
    if (client->own)
        return client->own_is_open && r->link.upstream == client->own;
    return client->place == CLIENT_SHARES && is_well_bound(ch, false);
}

uint32_t router_room_alike(const struct channel *ch, uint64_t *bytes)
{
    const struct pool *pool = ch->client->member.pool;
    const struct config *config = pool->rt->config;
    const struct relay *r = ch->relay;
    bool may_forget = !config->pool.confirm_transient && !ch->keeps_all && !ch->confirming;
    if (!r->confirming || ch->rejecting || may_forget || !is_bound_well(ch) ||
        stream_is_full(&r->link.upstream->stream))
        return 0;
    struct facts begin = facts_of(ch, 0),
                 whole = facts_of(ch, unconfirmed_last(&r->unconfirmed)->destination);
    if (way_of_begin(&begin) != WAY_ON || way_of_publish(&whole) != WAY_LIVE)
        return 0;
    uint32_t room = under_way_room(&r->link.upstream->under_way, config, bytes);
    uint64_t places = whole.spools ? queue_room(pool->queue) : UINT32_MAX;
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
           !doubts_hold(&pool->queue->backlog.doubts, destination);
}

/* ---- other methods ---- */

/* What has made RabbitMQ end a shared upstream is not sent on one again. */
static bool is_shareable(const struct client *client, amqp_method_number_t method,
                         const void *decoded)
{
    return shareable_method(method, decoded, client->clients->pools->upstreams->server.major) &&
           !pool_is_wary(client->member.pool, method);
}

/* basic.qos before there is a consumer's channel is remembered and answered here. */
static bool is_answered_here(const struct channel *ch, amqp_method_number_t method)
{
    return method == AMQP_BASIC_QOS_METHOD && !(ch->relay && !ch->relay->shared);
}

/* RabbitMQ ends the connection for it, and would do so when the channel is bound there, too late.
 */
static bool asks_for_bytes(amqp_method_number_t method, const void *decoded)
{
    return method == AMQP_BASIC_QOS_METHOD &&
           ((const amqp_basic_qos_t *)decoded)->prefetch_size != 0;
}

static bool answer_qos(struct channel *ch, amqp_method_number_t method, const void *decoded)
{
    if (method != AMQP_BASIC_QOS_METHOD)
        return false;
    channel_remember_qos(ch, decoded);
    if (!is_answered_here(ch, method))
        return false;
    channel_send(ch, AMQP_BASIC_QOS_OK_METHOD, &(amqp_basic_qos_ok_t){0});
    return true;
}

/* Publishes on an upstream of the client's own are confirmed as well, and RabbitMQ lets nobody
 * switch from confirms to transactions: the upstream channel is changed for a new one, once all on
 * it is answered. NULL: not yet. A channel that consumes is bound to its own. */
static struct relay *relay_for_transactions(struct channel *ch, struct relay *r)
{
    if (r->confirming && !ch->consumes) {
        if (!relay_is_settled(r))
            return NULL;
        relay_release(r);
        r = relay_bind(ch, ch->client->own, false, false);
        if (!r)
            return NULL;
    }
    ch->transactional = true;
    r->transactional = true;
    return r;
}

static void note_bound(struct channel *ch, amqp_method_number_t method, const void *decoded)
{
    if (rule_has(method, RULE_CONSUMES))
        ch->consumes = true;
    if (method == AMQP_QUEUE_DECLARE_METHOD && ((const amqp_queue_declare_t *)decoded)->exclusive)
        ch->client->owns_queues = true;
}

static enum route send_live(struct channel *ch, struct slab *slab, const struct frame *frame,
                            amqp_method_number_t method, const void *decoded, struct refusal *why)
{
    struct client *client = ch->client;
    if (!client->own && !is_shareable(client, method, decoded))
        own_upstream_dial(client);
    enum route bound = relay_for(ch, false, why);
    if (bound != ROUTE_DONE)
        return bound;
    struct relay *r = ch->relay;
    if (stream_is_full(&r->link.upstream->stream) || !calls_have_room(&r->calls))
        return ROUTE_HELD;
    if (!frame_fits(frame->payload_len, r->link.upstream->frame_max)) {
        return refuse(why, REFUSED_CLIENT, 501,
                      "FRAME_ERROR - method larger than RabbitMQ's frame_max", method);
    }
    if (method == AMQP_TX_SELECT_METHOD) {
        r = relay_for_transactions(ch, r);
        if (!r)
            return ROUTE_HELD;
    }
    note_bound(ch, method, decoded);
    relay_method(r, slab, frame, method);
    if (method == AMQP_TX_COMMIT_METHOD)
        relay_await_commit(r);
    else if (method == AMQP_TX_ROLLBACK_METHOD)
        channel_drop_transaction(ch);
    return ROUTE_DONE;
}

/* An alarm stops publishing; who consumes must go on, or it never ends. */
static bool has_own_way(struct client *client, amqp_method_number_t method, const void *decoded)
{
    if (client->own)
        return true; /* open, or it waits until that is decided */
    return connections_are_open(client->member.pool) && !is_shareable(client, method, decoded);
}

enum { CONSUMER_WAITS_MIN_MS = 1000, CONSUMER_WAITS_MAX_MS = 5000 };

/* What RabbitMQ alone can answer, while it is away, or before the drain has declared what the
 * method names. ROUTE_DONE: nobody waits for it, the refusal is to be sent.
 *
 * A consumer is told what RabbitMQ's own end would tell it, because libraries recover from that and
 * from nothing else. It is told late: a worker that is refused at once comes back at once. All else
 * waits for a RabbitMQ that was there a moment ago. */
static enum route needs_rabbitmq(struct channel *ch, amqp_method_number_t method,
                                 struct refusal *why)
{
    struct pool *pool = ch->client->member.pool;
    if (!rule_has(method, RULE_CONSUMES))
        return (pool->state == POOL_DRAINING || pool_state_may_return(pool)) &&
                       client_waits(ch->client, pool->rt->config->upstream.connect_timeout_ms)
                   ? ROUTE_HELD
                   : ROUTE_DONE;
    uint64_t spread = CONSUMER_WAITS_MAX_MS - CONSUMER_WAITS_MIN_MS;
    uint64_t ms = CONSUMER_WAITS_MIN_MS + (uint64_t)random() % (spread + 1);
    if (client_waits(ch->client, test_number("AMQPBUF_TEST_CONSUMER_WAITS_MS", ms)))
        return ROUTE_HELD;
    return refuse(why, REFUSED_CLIENT, 320, LOST_RABBITMQ, method);
}

static enum route route_decoded(struct channel *ch, struct slab *slab, const struct frame *frame,
                                amqp_method_number_t method, void *decoded, struct refusal *why)
{
    struct pool *pool = ch->client->member.pool;
    if (!take_over_transaction(ch))
        return ROUTE_HELD;
    if (method == AMQP_TX_ROLLBACK_METHOD && ch->tx && !is_sent(ch) && ch->relay &&
        ch->relay->transactional)
        channel_drop_transaction(ch); /* what RabbitMQ was told in it, it rolls back */
    bool tx_here = ch->tx && !is_sent(ch);
    if (method == AMQP_TX_SELECT_METHOD && ch->confirming) {
        return refuse(why, REFUSED_CHANNEL, 406,
                      "PRECONDITION_FAILED - cannot switch from confirm to tx mode", method);
    }
    if (asks_for_bytes(method, decoded)) {
        return refuse(why, REFUSED_CLIENT, 540, "NOT_IMPLEMENTED - prefetch_size!=0", method);
    }
    bool offline =
        tx_here || (pool->state == POOL_OFFLINE && !has_own_way(ch->client, method, decoded)) ||
        (pool->state != POOL_LIVE && offline_names_promised(pool->queue, method, decoded));
    if ((offline || is_answered_here(ch, method)) && channel_is_owed(ch))
        return ROUTE_HELD;
    if (offline) {
        if (!spool_is_usable(pool))
            return refuse_offline(why);
        if (!tx_here && (spooler_is_full(pool->rt->spooler) || budget_is_short(pool->rt)))
            return ROUTE_HELD;
        if (ch->committing > 0 || (ch->relay && ch->relay->calls.count > 0))
            return ROUTE_HELD; /* replies keep their order */
        if (!tx_here && !offline_can_answer(method, decoded)) {
            enum route route = needs_rabbitmq(ch, method, why);
            if (route != ROUTE_DONE)
                return route;
        }
        char what[64];
        const char *full = offline_takes_place(ch, method, decoded) ? why_full(pool, what) : NULL;
        if (full)
            return refuse_full(ch, full, method, why);
        client_tell_blocked(ch->client, false, NULL);
        return offline_method(ch, frame->payload, frame->payload_len, method, why) ? ROUTE_DONE
                                                                                   : ROUTE_REFUSED;
    }
    if (runtime_buffers(pool->rt))
        client_tell_blocked(ch->client, false, NULL);
    if (answer_qos(ch, method, decoded))
        return ROUTE_DONE;
    return send_live(ch, slab, frame, method, decoded, why);
}

enum route router_method(struct channel *ch, struct slab *slab, const struct frame *frame,
                         amqp_method_number_t method, struct refusal *why)
{
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t number;
    void *decoded;
    enum route route = ROUTE_REFUSED;
    if (!method_decode(&arena, frame->payload, frame->payload_len, &number, &decoded)) {
        char text[128];
        snprintf(text, sizeof text, "SYNTAX_ERROR - malformed %s", method_name(method));
        refuse(why, REFUSED_CLIENT, 502, text, method);
    } else {
        struct frame full = *frame;
        struct slab *made = NULL;
        if (rewrite_queue_name(ch, method, decoded, &full, &made, why))
            route = route_decoded(ch, made ? made : slab, &full, method, decoded, why);
        if (made)
            slab_unref(made);
    }
    method_arena_deinit(&arena);
    return route;
}
