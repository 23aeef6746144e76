#include "session/relay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/rules.h"
#include "amqp/wire.h"
#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "base/states.h"
#include "peer/reply.h"
#include "peer/runtime.h"
#include "peer/send.h"
#include "pool/held.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "pool/spread.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/keeping.h"
#include "session/outcome.h"
#include "session/replies.h"
#include "session/transaction.h"

/* Happy path: channel.open (and confirm.select) are sent ahead of the first publish or method;
 * publishes are retained until basic.ack, methods until their reply, which goes on to the client
 * with its channel number rewritten.
 *
 * What can fail: RabbitMQ closes the channel (the client's channel is closed with the same words;
 * what was unconfirmed on it is RabbitMQ's to judge, as it would be without a proxy), perhaps just
 * when a channel.close is on its way to it (then its close-ok is awaited still), or the upstream is
 * lost (failover.c takes what is retained, then on_lost frees the relay). */

enum { IDLE_RELAYS_MAX = 256, KEEPING_ORPHAN_MS = 1000 };

static const struct link_handler handler;
static const struct carrier carrier;

struct relay *relay_of(struct link *link)
{
    return link->handler == &handler ? LIST_ENTRY(link, struct relay, link) : NULL;
}

struct relay *relay_next(const struct upstream *u, uint32_t *at)
{
    struct link *link;
    while ((link = links_next(&u->links, at)) != NULL)
        if (relay_of(link))
            return relay_of(link);
    return NULL;
}

static struct stream *stream_of(struct relay *r)
{
    return &r->link.upstream->stream;
}

/* ---- what is known of it ---- */

bool relay_is_unheard(const struct relay *r)
{
    return r->forgets || r->unproven > 0;
}

bool relay_may_be_left(const struct relay *r)
{
    return r->open == 0 && r->calls.count == 0 && !relay_is_unheard(r);
}

bool relay_is_spent(const struct relay *r)
{
    return r->shared && r->nacked && relay_may_be_left(r);
}

bool relay_is_settled(const struct relay *r)
{
    return r->unconfirmed.count == 0 && r->calls.count == 0;
}

/* An alarm: RabbitMQ reads nothing more of what is sent there. What it has read is known, or in
 * doubt; but not where it offers no confirms: there its close-ok is the only answer. */
static bool is_unread(const struct relay *r)
{
    return !relay_is_unheard(r) && upstream_is_unread(r->link.upstream);
}

/* A message of RabbitMQ's is on its way to the client, and not whole. */
static bool is_inside(const struct relay *r)
{
    return r->channel && r->channel->inside_content;
}

/* A message is returned before it is confirmed; what is in doubt is not waited for. */
static bool owes(const struct relay *r)
{
    return r->calls.count > 0 ||
           (r->open > 0 && r->mandatory_tag > r->sent_tag - r->unconfirmed.count);
}

bool relay_is_consumed(struct relay *r)
{
    for (uint32_t i = 0; i < r->calls.count; i++)
        if (rule_has(calls_at(&r->calls, i)->method, RULE_CONSUMES))
            return true;
    return !consuming_is_empty(&r->consuming);
}

bool relay_awaits_name(const struct relay *r)
{
    for (uint32_t i = 0; i < r->calls.count; i++)
        if (calls_at(&r->calls, i)->method == AMQP_QUEUE_DECLARE_METHOD)
            return true;
    return false;
}

/* ---- life ---- */

static struct awaited *await(struct relay *r, amqp_method_number_t method)
{
    return calls_add(&r->calls, method, ++r->pool->rt->next_stamp);
}

static struct relay *relay_new(struct channel *channel, struct upstream *u, bool shared)
{
    struct relay *r = calloc(1, sizeof *r);
    ENSURE(r);
    r->link.handler = &handler;
    r->link.leaves_one = shared;
    r->pool = channel->client->member.pool;
    r->shared = shared;
    if (!upstream_attach(u, &r->link)) {
        free(r);
        return NULL;
    }
    r->pool->relay_count++;
    r->stamp = ++r->pool->rt->next_stamp;
    wire_send_plain(&u->stream, r->link.channel, AMQP_CHANNEL_OPEN_METHOD);
    await(r, AMQP_CHANNEL_OPEN_METHOD);
    return r;
}

static void select_confirms(struct relay *r)
{
    wire_send_plain(stream_of(r), r->link.channel, AMQP_CONFIRM_SELECT_METHOD);
    await(r, AMQP_CONFIRM_SELECT_METHOD);
    r->confirming = true;
}

/* What the client has set before its channel was bound here. */
static void restore(struct relay *r, const struct channel *channel)
{
    for (unsigned i = 0; i < 2 && !r->shared; i++) {
        if (!channel->qos[i])
            continue;
        wire_send(stream_of(r), r->link.channel, AMQP_BASIC_QOS_METHOD, channel->qos[i]);
        await(r, AMQP_BASIC_QOS_METHOD);
    }
    if (channel->transactional) {
        wire_send_plain(stream_of(r), r->link.channel, AMQP_TX_SELECT_METHOD);
        await(r, AMQP_TX_SELECT_METHOD);
        r->transactional = true;
    }
}

struct relay *relay_bind(struct channel *channel, struct upstream *u, bool shared, bool forgets)
{
    ENSURE(!channel->relay);
    bool may_open =
        links_have_room(&u->links, true) && !pool_channel_limit(channel->client->member.pool);
    struct link *idle = shared && !(forgets && may_open) ? links_take_idle(&u->links) : NULL;
    struct relay *r;
    if (idle) {
        r = LIST_ENTRY(idle, struct relay, link);
    } else {
        r = relay_new(channel, u, shared);
        if (!r)
            return NULL;
        bool ahead = u->rt->config->pool.confirm_transient || channel->confirming;
        if (shared && u->offers_confirms && ahead)
            select_confirms(r);
        restore(r, channel);
    }
    r->channel = channel;
    r->client = channel->client->handle;
    channel->relay = r;
    channel->carrier = &carrier;
    return r;
}

void relay_free(struct relay *r)
{
    ENSURE(!r->link.upstream);
    r->pool->relay_count--;
    keeping_drop_all(r);
    outcome_end_return(r);
    free(r->returned);
    unconfirmed_deinit(&r->unconfirmed);
    consuming_deinit(&r->consuming);
    free(r);
}

void relay_move(struct relay *r)
{
    r->moves = true;
    r->pool->move_ends_ms = runtime_now(r->pool->rt) + MOVE_MS;
}

static void end_move(struct relay *r)
{
    if (!r->moves)
        return;
    r->moves = false;
    r->pool->move_ends_ms = 0;
    held_wake(r->pool); /* it may be another one's turn */
}

void relay_stay(struct relay *r)
{
    end_move(r);
    r->stays_until_ms = runtime_now(r->pool->rt) + MOVE_AGAIN_MS;
}

/* What it consumes is nobody's any more, and others wait for it. */
static uint64_t orphan_ms(struct relay *r)
{
    return relay_is_consumed(r) ? KEEPING_ORPHAN_MS : r->pool->rt->config->pool.confirm_timeout_ms;
}

static void unbind(struct relay *r)
{
    end_move(r);
    if (!r->channel)
        return;
    r->orphan_until_ms = runtime_now(r->pool->rt) + orphan_ms(r);
    r->channel->relay = NULL;
    r->channel = NULL;
}

void relay_hurry(struct relay *r)
{
    uint64_t until = runtime_now(r->pool->rt) + KEEPING_ORPHAN_MS;
    if (!r->channel && r->orphan_until_ms > until)
        r->orphan_until_ms = until;
}

static void close_upstream(struct relay *r)
{
    if (!close_move(&r->close, CLOSE_WE_ASK))
        return;
    amqp_channel_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
    wire_send(stream_of(r), r->link.channel, AMQP_CHANNEL_CLOSE_METHOD, &close);
}

/* A relay that serves nobody: kept for the next channel, closed, or left alone until RabbitMQ has
 * answered what was sent on it. */
static void settle_orphan(struct relay *r)
{
    bool idle = link_is_idle(&r->link); /* a confirm too many has come */
    if (!relay_is_settled(r) || r->close != CLOSE_NONE || idle)
        return;
    struct upstream *u = r->link.upstream;
    if (r->shared && r->confirming && !r->nacked && !relay_is_unheard(r) &&
        u->links.count <= IDLE_RELAYS_MAX) {
        relay_rest(r);
        upstream_keep_idle(&r->link);
    } else {
        close_upstream(r);
    }
    held_wake(r->pool);
}

void relay_release(struct relay *r)
{
    unbind(r);
    settle_orphan(r);
}

void relay_give_up(struct relay *r)
{
    uint64_t owner = r->client;
    keeping_drop_all(r);
    settle_orphan(r);
    client_settled_by(owner);
}

bool relay_leave(struct relay *r)
{
    if (r->open > 0 || r->calls.count > 0 || is_inside(r))
        return false;
    if (relay_is_unheard(r)) {
        close_upstream(r);
        return false;
    }
    relay_release(r);
    return true;
}

/* There is no copy of something that RabbitMQ has not answered for. */
static bool is_unkept(const struct relay *r)
{
    const struct transaction *tx = r->channel ? r->channel->tx : NULL;
    return r->unproven > 0 || (tx && !transaction_is_kept(tx));
}

static void on_lost(struct link *link)
{
    struct relay *r = relay_of(link);
    struct queue *queue = r->pool->queue;
    uint64_t owner = r->client;
    struct client *client = is_unkept(r) ? handles_get(owner) : NULL;
    if (client) /* nothing is known of what it has published */
        client_refuse(client, 320, LOST_RABBITMQ, AMQP_BASIC_PUBLISH_METHOD);
    struct channel *channel = r->channel;
    keeping_drop_all(r);
    upstream_detach(link);
    unbind(r);
    relay_free(r);
    if (channel && transaction_is_sent(channel->tx))
        transaction_move(channel->tx, TRANSACTION_LOCAL); /* RabbitMQ has given it up */
    if (channel && channel_awaits_content(channel))
        client_refuse(channel->client, 320, LOST_RABBITMQ, 0);
    else if (channel)
        channel_lost_upstream(channel);
    client_settled_by(owner);
    queue_changed(queue);
}

/* ---- towards RabbitMQ ---- */

static void emit(void *arg, struct slab *slab, uint8_t *at, size_t len)
{
    stream_write_span(arg, slab, at, len);
}

bool relay_publish(struct relay *r, struct message *message, uint64_t client_tag,
                   uint64_t destination, bool forgets)
{
    ENSURE(r->close == CLOSE_NONE);
    struct upstream *u = r->link.upstream;
    bool mandatory = message->method.at[message->method.len - 1] & 1; /* the last octet: bits */
    if (!r->confirming && !r->transactional && u->offers_confirms && !forgets)
        select_confirms(r);
    if (!message_frame(message, r->link.channel, u->frame_max, emit, &u->stream))
        return false;
    r->pool->rt->counters.forwarded++;
    if (r->confirming) {
        r->sent_tag++;
        if (mandatory)
            r->mandatory_tag = r->sent_tag;
        keeping_retain(r, message, client_tag, destination);
        return true;
    }
    r->forgets = r->forgets || forgets;
    if (!r->transactional && !forgets) {
        r->unproven++;
        r->channel->client->retained++;
    }
    if (r->transactional && transaction_is_sent(r->channel->tx))
        transaction_keep(r->channel->tx, message);
    message_clear(message);
    return true;
}

void relay_follow(struct relay *r, struct slab *slab, uint8_t *at, uint32_t bytes)
{
    uint64_t destination = unconfirmed_last(&r->unconfirmed)->destination;
    uint64_t client_tag = r->channel->confirming ? ledger_add(&r->channel->ledger) : 0;
    retained_keep_adjacent(keeping_add(r, client_tag, destination, bytes), slab_ref(slab), at);
}

void relay_send_run(struct relay *r, struct slab *slab, uint8_t *at, size_t len, uint32_t count,
                    uint64_t bytes)
{
    ENSURE(r->close == CLOSE_NONE);
    bool was_mandatory = r->mandatory_tag == r->sent_tag && r->sent_tag > 0;
    struct lot lot = {unconfirmed_last(&r->unconfirmed)->destination, count, bytes};
    r->sent_tag += count;
    if (was_mandatory)
        r->mandatory_tag = r->sent_tag;
    keeping_opened(r, &lot);
    r->pool->rt->counters.forwarded += count;
    stream_write_span(stream_of(r), slab, at, len);
}

void relay_method(struct relay *r, struct slab *slab, const struct frame *frame,
                  amqp_method_number_t method)
{
    ENSURE(r->close == CLOSE_NONE);
    bool nowait = method_set_nowait(frame->payload, frame->payload_len, false);
    frame_set_channel(frame->payload, r->link.channel);
    stream_write_span(stream_of(r), slab, frame->payload - FRAME_HEAD_BYTES,
                      frame->payload_len + FRAME_OVERHEAD_BYTES);
    consuming_say(&r->consuming, method, frame, r->transactional);
    if (!method_is_answered(method))
        return;
    struct awaited *call = await(r, method);
    call->nowait = nowait;
    calls_keep(&r->calls, span_of(slab, frame->payload, frame->payload_len));
}

void relay_await_commit(struct relay *r)
{
    ENSURE(r->calls.count > 0);
    struct awaited *call = calls_at(&r->calls, r->calls.count - 1);
    ENSURE(call->method == AMQP_TX_COMMIT_METHOD);
    call->tx = r->channel->tx;
    r->channel->tx = NULL;
    if (call->tx)
        transaction_move(call->tx, TRANSACTION_COMMITTING);
}

bool relay_has_acks(const struct relay *r)
{
    return r->transactional && r->channel && r->channel->consumes && r->close == CLOSE_NONE;
}

bool relay_commit_acks(struct relay *r)
{
    if (!relay_has_acks(r))
        return false;
    bool is_read = !upstream_is_unread(r->link.upstream);
    if (is_read || calls_have_room(&r->calls)) {
        wire_send_plain(stream_of(r), r->link.channel, AMQP_TX_COMMIT_METHOD);
        await(r, AMQP_TX_COMMIT_METHOD)->is_half = is_read;
        consuming_commit(&r->consuming);
    }
    return is_read;
}

/* ---- from RabbitMQ ---- */

static void on_confirm(struct relay *r, const struct frame *frame, bool nack)
{
    uint64_t owner = r->client;
    enum outcome outcome = outcome_confirm(r, frame, nack);
    if (outcome == OUTCOME_NONE)
        return;
    queue_wake(r->pool->queue);
    struct client *client = handles_get(owner);
    if (outcome == OUTCOME_LOST && client)
        client_refuse(client, 506, NACKED_AND_LOST, AMQP_BASIC_PUBLISH_METHOD);
    else if (r->channel)
        channel_settled(r->channel);
    if (!r->channel)
        settle_orphan(r);
    client_settled_by(owner);
}

/* Nothing is owed any more: the number is free, the relay goes. */
static void finish(struct relay *r)
{
    struct pool *pool = r->pool;
    struct upstream *u = r->link.upstream;
    struct channel *channel = r->channel;
    uint64_t owner = r->client;
    keeping_drop_all(r);
    upstream_detach(&r->link);
    unbind(r);
    relay_free(r);
    held_wake(pool);
    queue_changed(pool->queue);
    if (channel && channel->state == CHANNEL_CLOSING)
        channel_closed_upstream(channel);
    else if (channel)
        channel_settled(channel);
    client_settled_by(owner);
    if (!u->owner && u->links.count == 0 && u->state == UPSTREAM_OPEN)
        upstream_close(u); /* a client's own, and the client is gone */
}

/* Publishes of a channel that was closed before are lost, and their client is still there. */
static void tell_lost(struct relay *r)
{
    struct client *client = handles_get(r->client);
    if (client && r->open > 0)
        client_refuse(client, 320, LOST_UNCONFIRMED, AMQP_BASIC_PUBLISH_METHOD);
}

static void refuse_channel(struct relay *r, const amqp_channel_close_t *m)
{
    struct channel *channel = r->channel;
    bool heard = channel && channel->client->state != CLIENT_SETTLING;
    bool saved = !heard && r->open > 0 && outcome_keep(r, m);
    if (!channel) {
        if (!saved) /* buffering is off */
            tell_lost(r);
        return;
    }
    unbind(r);
    if (saved && !channel_awaits_content(channel))
        channel_settled(channel);
    else if (channel->inside_content)
        client_refuse(channel->client, 501, "FRAME_ERROR - RabbitMQ has ended a message too early",
                      0);
    else
        channel_refuse_bytes(channel, m->reply_code, m->reply_text,
                             (amqp_method_number_t)m->class_id << 16 | m->method_id);
}

/* What followed the bad message was thrown away with it; and so were calls. */
static void on_exception(struct relay *r, const struct frame *frame)
{
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t method;
    void *decoded;
    amqp_channel_close_t unreadable = {
        .reply_code = 541,
        .reply_text = bytes_of("INTERNAL_ERROR - RabbitMQ's reason cannot be read"),
    };
    wire_send_plain(stream_of(r), r->link.channel, AMQP_CHANNEL_CLOSE_OK_METHOD);
    close_move(&r->close, CLOSE_THEY_ASK);
    close_move(&r->close, CLOSE_WE_ANSWER);
    bool readable =
        method_decode_reply(&arena, frame->payload, frame->payload_len, &method, &decoded);
    const amqp_channel_close_t *m = readable ? decoded : &unreadable;
    char text[256];
    snprintf(text, sizeof text, "%.*s", (int)m->reply_text.len, (const char *)m->reply_text.bytes);
    LOG_OFTEN(LOG_INFO, "channel_refused", LOG_T("user", r->pool->user),
              LOG_T("vhost", r->pool->vhost), LOG_N("code", m->reply_code), LOG_T("reason", text),
              LOG_N("unconfirmed", r->unconfirmed.count));
    if (m->reply_code == 404)
        queue_note_missing(r->pool->queue, text);
    refuse_channel(r, m);
    method_arena_deinit(&arena);
    keeping_drop_all(r);
    if (r->close == CLOSE_DONE)
        finish(r);
    else
        queue_changed(r->pool->queue); /* they crossed: the number is free after its close-ok */
}

static void on_method(struct relay *r, struct slab *slab, const struct frame *frame)
{
    amqp_method_number_t method = method_number(frame->payload, frame->payload_len);
    switch (method) {
    case AMQP_BASIC_ACK_METHOD:
    case AMQP_BASIC_NACK_METHOD:
        on_confirm(r, frame, method == AMQP_BASIC_NACK_METHOD);
        return;
    case AMQP_CHANNEL_CLOSE_METHOD:
        on_exception(r, frame);
        return;
    case AMQP_CHANNEL_CLOSE_OK_METHOD:
        if (close_move(&r->close, CLOSE_THEY_ANSWER))
            finish(r);
        return;
    default:
        break;
    }
    if (method == AMQP_BASIC_RETURN_METHOD)
        outcome_begin_return(r, frame);
    if (r->channel) { /* closing or not: it goes on until close-ok */
        replies_pass_method(r, slab, frame, method);
    } else {
        struct awaited *call = calls_find(&r->calls, method, frame);
        if (!call)
            return;
        calls_end(&r->calls, call);
        settle_orphan(r);
    }
}

static void on_frame(struct link *link, struct slab *slab, const struct frame *frame)
{
    struct relay *r = relay_of(link);
    if (frame->type == FRAME_METHOD) {
        on_method(r, slab, frame);
        return;
    }
    outcome_note_header(r, slab, frame);
    if (!r->channel)
        outcome_keep_return(r); /* a publisher that has gone has a part of it, perhaps */
    else if (frame->type != FRAME_HEARTBEAT)
        replies_pass_content(r, slab, frame);
}

static const struct link_handler handler = {.on_frame = on_frame, .on_lost = on_lost};

/* ---- as its channel sees it ---- */

static uint32_t unconfirmed(const struct relay *r)
{
    return r->open;
}

static bool carries_publishes_alone(const struct relay *r)
{
    return r->shared && r->confirming;
}

/* How its channel comes to be is no matter of the client's: a RabbitMQ that stands still does not
 * answer it, and what was published is kept. */
static bool awaits(const struct relay *r)
{
    if (!carries_publishes_alone(r))
        return r->calls.count > 0;
    for (uint32_t i = 0; i < r->calls.count; i++)
        if (calls_at(&r->calls, i)->payload.len > 0)
            return true;
    return false;
}

static bool commits(const struct relay *r)
{
    for (uint32_t i = 0; i < r->calls.count; i++)
        if (calls_at(&r->calls, i)->tx)
            return true;
    return false;
}

static const struct carrier carrier = {
    .release = relay_release,
    .close = close_upstream,
    .unconfirmed = unconfirmed,
    .awaits = awaits,
    .commits = commits,
    .owes = owes,
    .is_unread = is_unread,
    .carries_publishes_alone = carries_publishes_alone,
};
