#include "session/relay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/rules.h"
#include "amqp/wire.h"
#include "base/assert.h"
#include "base/crash_point.h"
#include "base/handles.h"
#include "base/log.h"
#include "base/states.h"
#include "drain/blame.h"
#include "drain/returned.h"
#include "peer/reply.h"
#include "peer/runtime.h"
#include "peer/send.h"
#include "pool/append.h"
#include "pool/doubt.h"
#include "pool/held.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "pool/spread.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/replies.h"
#include "session/transaction.h"
#include "spooler/spooler.h"

/* Happy path: channel.open (and confirm.select) are sent ahead of the first publish or method;
 * publishes are retained until basic.ack, methods until their reply, which goes on to the client
 * with its channel number rewritten.
 *
 * What can fail: RabbitMQ closes the channel (the client's channel is closed with the same words;
 * what was unconfirmed on it is RabbitMQ's to judge, as it would be without a proxy), perhaps just
 * when a channel.close is on its way to it (then its close-ok is awaited still), or the upstream is
 * lost (failover.c takes what is retained, then on_lost frees the relay). */

enum { IDLE_RELAYS_MAX = 256 };

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

/* ---- what is retained ---- */

/* Publishes to one destination. */
struct lot {
    uint64_t destination;
    uint32_t count;
    uint64_t bytes; /* of all of them */
};

static struct lot lot_of(const struct retained *entry)
{
    return (struct lot){entry->destination, 1, entry->bytes};
}

/* They are open now. */
static void add_lot(struct relay *r, const struct lot *lot)
{
    struct under_way *under_way = &r->link.upstream->under_way;
    under_way_add(under_way, lot->destination, lot->count, lot->bytes);
    under_way->senders += r->open == 0;
    r->open += lot->count;
    r->channel->client->retained += lot->count;
    r->pool->queue->retained += lot->count;
}

/* They were open, and are no longer RabbitMQ's to confirm. */
static void remove_lot(struct relay *r, const struct lot *lot)
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

static struct retained *new_entry(struct relay *r, uint64_t client_tag, uint64_t destination,
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

static void retain(struct relay *r, struct message *message, uint64_t client_tag,
                   uint64_t destination)
{
    struct retained *entry = new_entry(r, client_tag, destination, message_bytes(message));
    if (runtime_buffers(r->pool->rt))
        retained_keep(entry, message);
    else
        message_clear(message);
    struct lot lot = lot_of(entry);
    add_lot(r, &lot);
}

static void forget(struct relay *r, struct retained *entry)
{
    struct lot lot = lot_of(entry);
    retained_drop(entry);
    remove_lot(r, &lot);
}

void relay_doubt(struct relay *r, struct retained *entry)
{
    struct message message;
    retained_take(entry, &message);
    forget(r, entry);
    retained_move(entry, RETAINED_DOUBTED);
    entry->doubt = doubt_new(r->pool, relay_publisher(r), &message, entry->client_tag);
}

/* The upstream channel is gone. */
static void drop(struct relay *r, struct retained *entry)
{
    if (entry->state == RETAINED_OPEN)
        forget(r, entry);
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

static void drop_retained(struct relay *r)
{
    forget_unproven(r);
    while (r->unconfirmed.count > 0) {
        drop(r, unconfirmed_at(&r->unconfirmed, 0));
        unconfirmed_drop_oldest(&r->unconfirmed);
    }
    calls_deinit(&r->calls);
}

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
    drop_retained(r);
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

static void unbind(struct relay *r)
{
    end_move(r);
    if (r->channel)
        r->channel->relay = NULL;
    r->channel = NULL;
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

bool relay_leave(struct relay *r)
{
    if (r->open > 0 || r->calls.count > 0)
        return false;
    if (relay_is_unheard(r)) {
        close_upstream(r);
        return false;
    }
    relay_release(r);
    return true;
}

static void on_lost(struct link *link)
{
    struct relay *r = relay_of(link);
    struct queue *queue = r->pool->queue;
    uint64_t owner = r->client;
    struct client *client = r->unproven > 0 ? handles_get(owner) : NULL;
    if (client) /* nothing is known of what it has published, and no copy was kept */
        client_refuse(client, 320, LOST_RABBITMQ, AMQP_BASIC_PUBLISH_METHOD);
    struct channel *channel = r->channel;
    drop_retained(r);
    upstream_detach(link);
    unbind(r);
    relay_free(r);
    if (channel && channel->tx && transaction_state(channel->tx) == TRANSACTION_SENT)
        transaction_move(channel->tx, TRANSACTION_LOCAL); /* RabbitMQ has given it up */
    if (channel && channel->inside_content && channel->client->state == CLIENT_OPEN)
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
        retain(r, message, client_tag, destination);
        return true;
    }
    r->forgets = r->forgets || forgets;
    if (!r->transactional && !forgets) {
        r->unproven++;
        r->channel->client->retained++;
    }
    if (r->transactional && r->channel->tx)
        transaction_keep(r->channel->tx, message);
    message_clear(message);
    return true;
}

/* Of one that begins there. */
static size_t frame_size(const uint8_t *at)
{
    return (size_t)wire_get32(at + 3) + FRAME_OVERHEAD_BYTES;
}

void relay_follow(struct relay *r, struct slab *slab, uint8_t *at, uint32_t bytes)
{
    uint64_t destination = unconfirmed_last(&r->unconfirmed)->destination;
    uint64_t client_tag = r->channel->confirming ? ledger_add(&r->channel->ledger) : 0;
    retained_keep_adjacent(new_entry(r, client_tag, destination, bytes), slab_ref(slab), at);
}

void relay_send_run(struct relay *r, struct slab *slab, uint8_t *at, size_t len, uint32_t count,
                    uint64_t bytes)
{
    bool was_mandatory = r->mandatory_tag == r->sent_tag && r->sent_tag > 0;
    struct lot lot = {unconfirmed_last(&r->unconfirmed)->destination, count, bytes};
    r->sent_tag += count;
    if (was_mandatory)
        r->mandatory_tag = r->sent_tag;
    add_lot(r, &lot);
    r->pool->rt->counters.forwarded += count;
    for (uint8_t *frame = at; frame < at + len; frame += frame_size(frame))
        frame_set_channel(frame + FRAME_HEAD_BYTES, r->link.channel);
    stream_write_span(stream_of(r), slab, at, len);
}

void relay_method(struct relay *r, struct slab *slab, const struct frame *frame,
                  amqp_method_number_t method)
{
    bool nowait = method_set_nowait(frame->payload, frame->payload_len, false);
    frame_set_channel(frame->payload, r->link.channel);
    stream_write_span(stream_of(r), slab, frame->payload - FRAME_HEAD_BYTES,
                      frame->payload_len + FRAME_OVERHEAD_BYTES);
    if (!r->transactional) /* there an ack counts with its commit, if it comes */
        consuming_say(&r->consuming, method, frame);
    if (!method_is_answered(method))
        return;
    struct awaited *call = await(r, method);
    call->payload = span_of(slab, frame->payload, frame->payload_len);
    call->nowait = nowait;
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

/* ---- from RabbitMQ ---- */

static bool can_keep(const struct relay *r, const struct retained *entry)
{
    return retained_is_kept(entry) && r->pool->queue->backlog.id;
}

struct publisher relay_publisher(const struct relay *r)
{
    return (struct publisher){.channel = r->channel ? r->channel->handle : 0, .client = r->client};
}

/* Its publisher hears nothing of it. */
static void spool(struct relay *r, struct retained *entry)
{
    struct message message;
    retained_take(entry, &message);
    append_publish(r->pool, relay_publisher(r), &message, 0);
}

/* RabbitMQ does not want it. */
static void set_aside(struct relay *r, struct retained *entry, uint16_t code, const char *text)
{
    struct message message;
    retained_take(entry, &message);
    append_rejected(r->pool, relay_publisher(r), &message, code, text);
}

/* A nack that no client hears of (it did not ask for confirms, or is gone) must not make the
 * message vanish. It is RabbitMQ's failure, not the message's: the drain tries it again. */
static void keep_refused(struct relay *r, struct retained *entry)
{
    bool heard = r->channel && entry->client_tag;
    if (!heard && can_keep(r, entry))
        spool(r, entry);
}

static void tell_confirmed(struct relay *r, const struct retained *entry, bool nack)
{
    if (!r->channel || !entry->client_tag)
        return;
    if (nack)
        channel_nack(r->channel, entry->client_tag);
    else
        channel_ack(r->channel, entry->client_tag);
}

static void settle_doubted(struct retained *entry, bool nack)
{
    retained_move(entry, RETAINED_SETTLED); /* its publisher hears of the copy */
    nack ? doubt_lost(entry->doubt) : doubt_confirmed(entry->doubt);
}

/* Those to one destination that lie behind each other are counted together. */
static void settle(struct relay *r, struct retained *entry, bool nack, struct lot *lot)
{
    if (entry->state == RETAINED_DOUBTED)
        settle_doubted(entry, nack);
    if (entry->state != RETAINED_OPEN)
        return;
    if (entry->destination != lot->destination) {
        remove_lot(r, lot);
        *lot = (struct lot){.destination = entry->destination};
    }
    lot->count++;
    lot->bytes += entry->bytes;
    tell_confirmed(r, entry, nack);
    if (nack)
        keep_refused(r, entry);
    retained_drop(entry);
    retained_move(entry, RETAINED_SETTLED);
}

/* Confirms of publishes. Tags count the publishes of this upstream channel, whoever made them;
 * the client's own tag stands in the retained entry. */
static void confirm(struct relay *r, uint64_t tag, bool multiple, bool nack)
{
    uint64_t oldest = r->sent_tag - r->unconfirmed.count + 1;
    if (tag == 0 && multiple)
        tag = r->sent_tag;
    if (tag < oldest || tag > r->sent_tag)
        return;
    struct lot lot = {0};
    for (uint64_t k = multiple ? oldest : tag; k <= tag; k++)
        settle(r, unconfirmed_at(&r->unconfirmed, (uint32_t)(k - oldest)), nack, &lot);
    remove_lot(r, &lot);
    unconfirmed_drop_settled(&r->unconfirmed);
}

static void on_confirm(struct relay *r, const struct frame *frame, bool nack)
{
    if (frame->payload_len < 13)
        return;
    CRASH_POINT("before_confirm");
    uint64_t tag = wire_get64(frame->payload + 4), owner = r->client;
    if (nack)
        LOG_OFTEN(LOG_WARN, "publish_nacked", LOG_T("user", r->pool->user),
                  LOG_T("vhost", r->pool->vhost), LOG_N("tag", tag));
    confirm(r, tag, frame->payload[12] & 1, nack);
    r->nacked = r->nacked || nack;
    queue_wake(r->pool->queue);
    if (r->channel)
        channel_settled(r->channel);
    else
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
    drop_retained(r);
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

static bool can_keep_all(struct relay *r)
{
    for (uint32_t i = 0; i < r->unconfirmed.count; i++) {
        struct retained *entry = unconfirmed_at(&r->unconfirmed, i);
        if (entry->state == RETAINED_OPEN && !can_keep(r, entry))
            return false;
    }
    return true;
}

/* The only publish that RabbitMQ can mean, or NULL. One in doubt may be meant as well. */
static struct retained *only_unconfirmed(struct relay *r)
{
    struct retained *only = NULL;
    for (uint32_t i = 0; i < r->unconfirmed.count; i++) {
        struct retained *entry = unconfirmed_at(&r->unconfirmed, i);
        if (entry->state == RETAINED_SETTLED)
            continue;
        if (only || entry->state == RETAINED_DOUBTED)
            return NULL;
        only = entry;
    }
    return only;
}

static bool is_about_a_message(const amqp_channel_close_t *m, const char *text)
{
    return m->class_id == 60 && m->method_id == 40 &&
           (m->reply_code == 403 || m->reply_code == 404 || m->reply_code == 406) &&
           blame_of(m->reply_code, text) != BLAME_BROKER;
}

/* Nobody hears of the exception: the client is gone, or waits for connection.close-ok, or its
 * channel was closed before. RabbitMQ has thrown away what followed the bad message. If it was
 * alone it is kept as rejected; else all of it goes to the spool: the drain finds the bad one and
 * rejects it. False if no copies were kept. */
static bool keep_unconfirmed(struct relay *r, const amqp_channel_close_t *m)
{
    struct retained *only = only_unconfirmed(r);
    if (!runtime_buffers(r->pool->rt) || !can_keep_all(r))
        return false;
    char text[256];
    snprintf(text, sizeof text, "%.*s", (int)m->reply_text.len, (const char *)m->reply_text.bytes);
    if (only && is_about_a_message(m, text)) {
        set_aside(r, only, m->reply_code, text);
        return true;
    }
    for (uint32_t i = 0; i < r->unconfirmed.count; i++) {
        struct retained *entry = unconfirmed_at(&r->unconfirmed, i);
        if (entry->state == RETAINED_OPEN)
            spool(r, entry);
    }
    return true;
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
    bool saved = !heard && r->open > 0 && keep_unconfirmed(r, m);
    if (!channel) {
        if (!saved) /* buffering is off */
            tell_lost(r);
        return;
    }
    unbind(r);
    if (saved)
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
    refuse_channel(r, m);
    method_arena_deinit(&arena);
    drop_retained(r);
    if (r->close == CLOSE_DONE)
        finish(r);
    else
        queue_changed(r->pool->queue); /* they crossed: the number is free after its close-ok */
}

/* RabbitMQ gives a message back, and its publisher is gone: it is kept as rejected (P4). */
static void begin_unheard_return(struct relay *r, const struct frame *frame)
{
    if (!r->returned)
        r->returned = calloc(1, sizeof *r->returned);
    ENSURE(r->returned);
    returned_begin(r->returned, frame);
}

static void end_unheard_return(struct relay *r, const struct frame *header)
{
    if (header->type != FRAME_HEADER || !r->returned || !r->returned->active)
        return;
    r->returned->active = false;
    for (uint32_t i = 0; i < r->unconfirmed.count; i++) {
        struct retained *entry = unconfirmed_at(&r->unconfirmed, i);
        struct message view;
        if (entry->state == RETAINED_DOUBTED &&
            doubt_is_returned(entry->doubt, r->returned, header)) {
            doubt_note_return(entry->doubt, r->returned->code, r->returned->text);
            return;
        }
        if (entry->state != RETAINED_OPEN || !can_keep(r, entry) ||
            !returned_is_message(r->returned, retained_look(entry, &view), header))
            continue;
        set_aside(r, entry, r->returned->code, r->returned->text);
        forget(r, entry);
        retained_move(entry, RETAINED_SETTLED);
        return;
    }
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
    if (!r->channel && method == AMQP_BASIC_RETURN_METHOD) {
        begin_unheard_return(r, frame);
    } else if (r->channel) { /* closing or not: it goes on until close-ok */
        replies_pass_method(r, slab, frame, method);
    } else if (r->calls.count > 0 && method != AMQP_BASIC_DELIVER_METHOD &&
               method != AMQP_BASIC_RETURN_METHOD) {
        calls_end_oldest(&r->calls);
        if (!r->channel)
            settle_orphan(r);
    }
}

static void on_frame(struct link *link, struct slab *slab, const struct frame *frame)
{
    struct relay *r = relay_of(link);
    if (frame->type == FRAME_METHOD)
        on_method(r, slab, frame);
    else if (!r->channel)
        end_unheard_return(r, frame);
    else if (frame->type != FRAME_HEARTBEAT)
        replies_pass_content(r, slab, frame);
}

static const struct link_handler handler = {.on_frame = on_frame, .on_lost = on_lost};

/* ---- as its channel sees it ---- */

static uint32_t unconfirmed(const struct relay *r)
{
    return r->open;
}

static bool awaits(const struct relay *r)
{
    return r->calls.count > 0;
}

static bool carries_publishes_alone(const struct relay *r)
{
    return r->shared && r->confirming;
}

static const struct carrier carrier = {
    .release = relay_release,
    .close = close_upstream,
    .unconfirmed = unconfirmed,
    .awaits = awaits,
    .owes = owes,
    .is_unread = is_unread,
    .carries_publishes_alone = carries_publishes_alone,
};
