#include "session/method_router.h"

#include <stdio.h>
#include <stdlib.h>

#include "amqp/rules.h"
#include "base/slab.h"
#include "base/test_switch.h"
#include "peer/budget.h"
#include "peer/reply.h"
#include "peer/runtime.h"
#include "pool/connections.h"
#include "pool/pool.h"
#include "pool/pool_state.h"
#include "pool/queue.h"
#include "session/binding.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/offline.h"
#include "session/own_upstream.h"
#include "session/relay.h"
#include "session/rewrite.h"
#include "session/transaction.h"
#include "spooler/spooler.h"
#include "upstream/shareable.h"

enum {
    CONSUMER_WAITS_MIN_MS = 1000,
    CONSUMER_WAITS_MAX_MS = 5000,
    LARGE_METHOD = 4096,
    AWAITED_BYTES_MAX = 1024 * 1024, /* of one client's methods: then large ones wait for replies */
};

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
static uint32_t asks_for_bytes(amqp_method_number_t method, const void *decoded)
{
    return method == AMQP_BASIC_QOS_METHOD ? ((const amqp_basic_qos_t *)decoded)->prefetch_size : 0;
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
 * switch from confirms to transactions: the upstream channel is changed for a new one behind its
 * close-ok, because an ack that RabbitMQ refuses has no other answer. False: not yet. A channel
 * that consumes is bound to its own. */
static bool may_begin_transactions(struct channel *ch)
{
    struct relay *r = ch->relay;
    if (r->confirming && !ch->consumes) {
        if (relay_may_be_left(r))
            ch->carrier->close(r);
        return false;
    }
    ch->transactional = true;
    r->transactional = true;
    return true;
}

static void note_bound(struct channel *ch, amqp_method_number_t method, const void *decoded)
{
    if (rule_has(method, RULE_CONSUMES))
        ch->consumes = true;
    const amqp_queue_declare_t *m = method == AMQP_QUEUE_DECLARE_METHOD ? decoded : NULL;
    if (m && m->exclusive && !m->passive)
        ch->client->owns_queues = true;
}

/* Methods are kept until their replies, to be sent again or stored, and outlive their client: while
 * RabbitMQ answers nobody, one client must not fill listen.max_memory with them. */
static bool awaits_too_much(const struct client *client, const struct frame *frame)
{
    uint64_t bytes = 0;
    if (frame->payload_len < LARGE_METHOD)
        return false;
    for (uint32_t i = 0; i < client->channels_capacity; i++)
        if (client->channels[i] && client->channels[i]->relay)
            bytes += client->channels[i]->relay->calls.bytes;
    return bytes >= AWAITED_BYTES_MAX;
}

static enum route send_live(struct channel *ch, struct slab *slab, const struct frame *frame,
                            amqp_method_number_t method, const void *decoded, struct refusal *why)
{
    struct client *client = ch->client;
    bool is_alarm = client->member.pool->state == POOL_OFFLINE;
    if (!client->own && (is_alarm || !is_shareable(client, method, decoded)))
        own_upstream_dial(client);
    enum route bound = binding_find(ch, false, why);
    if (bound != ROUTE_DONE)
        return bound;
    struct relay *r = ch->relay;
    if (stream_is_full(&r->link.upstream->stream) || !calls_have_room(&r->calls) ||
        awaits_too_much(client, frame))
        return ROUTE_HELD;
    if (!frame_fits(frame->payload_len, r->link.upstream->frame_max)) {
        return route_refuse(why, REFUSED_CLIENT, 501,
                            "FRAME_ERROR - method larger than RabbitMQ's frame_max", method);
    }
    if (method == AMQP_TX_SELECT_METHOD && !may_begin_transactions(ch))
        return ROUTE_HELD;
    note_bound(ch, method, decoded);
    relay_method(r, slab, frame, method);
    if (method == AMQP_TX_COMMIT_METHOD)
        relay_await_commit(r);
    else if (method == AMQP_TX_ROLLBACK_METHOD)
        channel_drop_transaction(ch);
    return ROUTE_DONE;
}

/* An alarm stops publishing; who consumes must go on, or it never ends, and so must all else that
 * RabbitMQ alone can answer: it reads what comes on connections that have not published. Who is to
 * consume has declared before, perhaps with the first word that is heard of that queue. */
static bool has_own_way(struct client *client, amqp_method_number_t method, const void *decoded)
{
    const struct pool *pool = client->member.pool;
    if (client->own)
        return true; /* open, or it waits until that is decided */
    if (!connections_are_open(pool))
        return false;
    bool is_guess =
        !own_upstream_is_lacking(client) && offline_is_guess(pool->queue, method, decoded);
    return is_guess || !is_shareable(client, method, decoded) ||
           !offline_can_answer(method, decoded);
}

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
    return route_refuse(why, REFUSED_CLIENT, 320, LOST_RABBITMQ, method);
}

/* Answered in RabbitMQ's place: nothing else waits for RabbitMQ's answer on this channel. */
static enum route route_offline(struct channel *ch, const struct frame *frame,
                                amqp_method_number_t method, void *decoded, bool tx_here,
                                struct refusal *why)
{
    struct pool *pool = ch->client->member.pool;
    if (!route_spools(pool))
        return route_refuse_offline(why);
    if (!tx_here && (spooler_is_full(pool->rt->spooler) || budget_is_short(pool->rt)))
        return ROUTE_HELD;
    if (ch->relay && ch->relay->calls.count > 0)
        return ROUTE_HELD; /* replies keep their order */
    if (!tx_here && !offline_can_answer(method, decoded)) {
        enum route route = needs_rabbitmq(ch, method, why);
        if (route != ROUTE_DONE)
            return route;
    }
    char what[64];
    const char *full = offline_takes_place(ch, method, decoded) ? route_why_full(pool, what) : NULL;
    if (full)
        return route_refuse_full(ch, full, method, why);
    client_tell_blocked(ch->client, false, NULL);
    return offline_method(ch, frame->payload, frame->payload_len, method, why) ? ROUTE_DONE
                                                                               : ROUTE_REFUSED;
}

static enum route route_decoded(struct channel *ch, struct slab *slab, const struct frame *frame,
                                amqp_method_number_t method, void *decoded, struct refusal *why)
{
    struct pool *pool = ch->client->member.pool;
    if (!binding_take_over(ch))
        return ROUTE_HELD;
    if (method == AMQP_TX_ROLLBACK_METHOD && ch->tx && !transaction_is_sent(ch->tx) && ch->relay &&
        ch->relay->transactional)
        channel_drop_transaction(ch); /* what RabbitMQ was told in it, it rolls back */
    if (ch->committing > 0)
        return ROUTE_HELD; /* replies keep their order; an ack belongs to the next transaction */
    bool tx_here = rule_has(method, RULE_ENDS) && ch->tx && !transaction_is_sent(ch->tx);
    if (method == AMQP_TX_SELECT_METHOD && ch->confirming) {
        if (channel_awaits_verdict(ch))
            return ROUTE_HELD; /* one that is wrong is RabbitMQ's first word */
        return route_refuse(why, REFUSED_CHANNEL, 406,
                            "PRECONDITION_FAILED - cannot switch from confirm to tx mode", method);
    }
    if (asks_for_bytes(method, decoded)) {
        char text[64];
        snprintf(text, sizeof text, "NOT_IMPLEMENTED - prefetch_size!=0 (%u)",
                 asks_for_bytes(method, decoded));
        return route_refuse(why, REFUSED_CLIENT, 540, text, method);
    }
    bool offline =
        tx_here || (pool->state == POOL_OFFLINE && !has_own_way(ch->client, method, decoded)) ||
        (pool->state != POOL_LIVE && offline_names_promised(pool->queue, method, decoded));
    if ((offline || is_answered_here(ch, method)) && channel_is_owed(ch))
        return ROUTE_HELD;
    if (offline)
        return route_offline(ch, frame, method, decoded, tx_here, why);
    if (runtime_buffers(pool->rt))
        client_tell_blocked(ch->client, false, NULL);
    if (answer_qos(ch, method, decoded))
        return ROUTE_DONE;
    return send_live(ch, slab, frame, method, decoded, why);
}

/* It means the last declared queue, of which RabbitMQ has not told yet that it is that, perhaps by
 * a name that it makes up. */
static bool means_a_name_to_come(const struct channel *ch, amqp_method_number_t method,
                                 void *decoded)
{
    const amqp_bytes_t *queue = rule_default_queue(method, decoded);
    return queue && queue->len == 0 && ch->relay && relay_awaits_name(ch->relay);
}

enum route method_router_take(struct channel *ch, struct slab *slab, const struct frame *frame,
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
        route_refuse(why, REFUSED_CLIENT, 502, text, method);
    } else {
        struct frame full = *frame;
        struct slab *made = NULL;
        if (means_a_name_to_come(ch, method, decoded))
            route = ROUTE_HELD;
        else if (rewrite_queue_name(ch, method, decoded, &full, &made, why))
            route = route_decoded(ch, made ? made : slab, &full, method, decoded, why);
        if (made)
            slab_unref(made);
    }
    method_arena_deinit(&arena);
    bool closes_channel = route == ROUTE_REFUSED && why->whom == REFUSED_CHANNEL;
    return closes_channel && channel_is_owed(ch) ? ROUTE_HELD : route; /* answers go before it */
}
