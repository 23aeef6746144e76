#include "session/offline.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "drain/declared.h"
#include "pool/append.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/rewrite.h"
#include "session/transaction.h"

static void refuse(struct channel *ch, amqp_method_number_t method)
{
    channel_refuse(
        ch, 406, "PRECONDITION_FAILED - upstream unavailable: only publishing is buffered", method);
}

/* A queue with x-expires lives longer by each declaration, so none of them is the same. */
static bool expires(amqp_method_number_t method, const void *decoded)
{
    if (method != AMQP_QUEUE_DECLARE_METHOD)
        return false;
    const amqp_table_t *arguments = &((const amqp_queue_declare_t *)decoded)->arguments;
    for (int i = 0; i < arguments->num_entries; i++) {
        amqp_bytes_t key = arguments->entries[i].key;
        if (key.len == strlen("x-expires") && memcmp(key.bytes, "x-expires", key.len) == 0)
            return true;
    }
    return false;
}

/* A declaration as it is kept: without nowait, since its reply shows that it is done. */
struct kept {
    struct slab *slab; /* NULL: memory is short */
    struct frame frame;
    uint64_t hash;
};

static struct kept encode(amqp_method_number_t method, const void *decoded)
{
    struct kept kept = {0};
    kept.slab = rewrite_encode(method, decoded, &kept.frame);
    if (kept.slab && !expires(method, decoded))
        kept.hash = declared_hash(kept.frame.payload, kept.frame.payload_len);
    return kept;
}

/* One that is identical to one that waits takes no place: that one goes out before what follows. */
static bool waits_already(const struct queue *queue, const struct kept *kept)
{
    return kept->hash && declared_has(&queue->backlog.declared, kept->hash);
}

/* Keeps a declaration in its place in the queue. */
static bool keep(struct channel *ch, amqp_method_number_t method, const void *decoded)
{
    struct pool *pool = ch->client->member.pool;
    struct kept kept = encode(method, decoded);
    if (!kept.slab) {
        client_refuse(ch->client, 506, "RESOURCE_ERROR - out of memory for this method", method);
        return false;
    }
    bool waits = waits_already(pool->queue, &kept), full = !waits && !queue_has_room(pool->queue);
    if (full)
        channel_refuse(ch, 506, "RESOURCE_ERROR - publish buffer full", method);
    else if (!waits)
        append_declaration(pool, channel_publisher(ch), kept.slab, &kept.frame, kept.hash);
    slab_unref(kept.slab);
    return !full;
}

static void set_wait(amqp_method_number_t method, void *decoded, amqp_boolean_t nowait)
{
    switch (method) {
    case AMQP_EXCHANGE_DECLARE_METHOD:
        ((amqp_exchange_declare_t *)decoded)->nowait = nowait;
        return;
    case AMQP_QUEUE_DECLARE_METHOD:
        ((amqp_queue_declare_t *)decoded)->nowait = nowait;
        return;
    case AMQP_QUEUE_BIND_METHOD:
        ((amqp_queue_bind_t *)decoded)->nowait = nowait;
        return;
    default:
        ((amqp_exchange_bind_t *)decoded)->nowait = nowait;
    }
}

static bool is_kept(amqp_method_number_t method, const void *decoded, bool *nowait)
{
    switch (method) {
    case AMQP_EXCHANGE_DECLARE_METHOD:
        *nowait = ((const amqp_exchange_declare_t *)decoded)->nowait;
        return !((const amqp_exchange_declare_t *)decoded)->passive;
    case AMQP_QUEUE_DECLARE_METHOD:
        *nowait = ((const amqp_queue_declare_t *)decoded)->nowait;
        return !((const amqp_queue_declare_t *)decoded)->passive;
    case AMQP_QUEUE_BIND_METHOD:
        *nowait = ((const amqp_queue_bind_t *)decoded)->nowait;
        return true;
    case AMQP_EXCHANGE_BIND_METHOD:
        *nowait = ((const amqp_exchange_bind_t *)decoded)->nowait;
        return true;
    default:
        return false;
    }
}

bool offline_takes_place(const struct channel *ch, amqp_method_number_t method, void *decoded)
{
    bool nowait;
    if (!is_kept(method, decoded, &nowait))
        return false;
    set_wait(method, decoded, 0);
    struct kept kept = encode(method, decoded);
    set_wait(method, decoded, nowait);
    bool takes = !waits_already(ch->client->member.pool->queue, &kept);
    if (kept.slab)
        slab_unref(kept.slab);
    return takes;
}

/* A passive declaration asks whether it is there. Who hears no declares it, as with RabbitMQ. */
static bool is_there(struct channel *ch, amqp_method_number_t method, amqp_bytes_t name)
{
    const struct pool *pool = ch->client->member.pool;
    if (names_has_seen(&pool->queue->backlog.names, method, name.bytes, name.len))
        return true;
    char text[256];
    snprintf(text, sizeof text, "NOT_FOUND - no %s '%.*s' in vhost '%s'",
             method == AMQP_QUEUE_DECLARE_METHOD ? "queue" : "exchange", (int)name.len,
             (const char *)name.bytes, pool->vhost);
    channel_refuse(ch, 404, text, method);
    return false;
}

/* What waits in the spool from now on; a binding promises nothing. */
static void promise(struct queue *queue, amqp_method_number_t method, const void *decoded)
{
    if (method == AMQP_QUEUE_DECLARE_METHOD) {
        const amqp_queue_declare_t *m = decoded;
        names_promise(&queue->backlog.names, method, m->queue.bytes, m->queue.len,
                      !m->durable || m->auto_delete);
    } else if (method == AMQP_EXCHANGE_DECLARE_METHOD) {
        const amqp_exchange_declare_t *m = decoded;
        names_promise(&queue->backlog.names, method, m->exchange.bytes, m->exchange.len,
                      !m->durable || m->auto_delete);
    }
}

static bool declare(struct channel *ch, amqp_method_number_t method, const void *decoded,
                    amqp_bytes_t name, bool passive)
{
    if (passive)
        return is_there(ch, method, name);
    if (!keep(ch, method, decoded))
        return false;
    promise(ch->client->member.pool->queue, method, decoded);
    return true;
}

static void declare_exchange(struct channel *ch, amqp_exchange_declare_t *m)
{
    bool reply = !m->nowait;
    m->nowait = 0;
    if (!declare(ch, AMQP_EXCHANGE_DECLARE_METHOD, m, m->exchange, m->passive))
        return;
    if (reply)
        channel_send(ch, AMQP_EXCHANGE_DECLARE_OK_METHOD, &(amqp_exchange_declare_ok_t){0});
}

static void declare_queue(struct channel *ch, amqp_queue_declare_t *m)
{
    bool reply = !m->nowait;
    m->nowait = 0;
    if (!declare(ch, AMQP_QUEUE_DECLARE_METHOD, m, m->queue, m->passive))
        return;
    channel_set_last_queue(ch, m->queue.bytes, m->queue.len);
    amqp_queue_declare_ok_t ok = {.queue = m->queue};
    if (reply)
        channel_send(ch, AMQP_QUEUE_DECLARE_OK_METHOD, &ok);
}

static void bind_queue(struct channel *ch, amqp_queue_bind_t *m)
{
    bool reply = !m->nowait;
    m->nowait = 0;
    if (keep(ch, AMQP_QUEUE_BIND_METHOD, m) && reply)
        channel_send(ch, AMQP_QUEUE_BIND_OK_METHOD, &(amqp_queue_bind_ok_t){0});
}

static void bind_exchange(struct channel *ch, amqp_exchange_bind_t *m)
{
    bool reply = !m->nowait;
    m->nowait = 0;
    if (keep(ch, AMQP_EXCHANGE_BIND_METHOD, m) && reply)
        channel_send(ch, AMQP_EXCHANGE_BIND_OK_METHOD, &(amqp_exchange_bind_ok_t){0});
}

static void remember_qos(struct channel *ch, const amqp_basic_qos_t *m)
{
    channel_remember_qos(ch, m);
    channel_send(ch, AMQP_BASIC_QOS_OK_METHOD, &(amqp_basic_qos_ok_t){0});
}

static void end_transaction(struct channel *ch, bool commit)
{
    struct transaction *tx = commit ? ch->tx : NULL;
    if (tx) {
        ch->tx = NULL;
        transaction_commit(tx, ch->client->member.pool);
    }
    channel_drop_transaction(ch);
    if (commit && !tx)
        channel_send(ch, AMQP_TX_COMMIT_OK_METHOD, &(amqp_tx_commit_ok_t){0});
    else if (!commit)
        channel_send(ch, AMQP_TX_ROLLBACK_OK_METHOD, &(amqp_tx_rollback_ok_t){0});
}

static bool is_promised(const struct queue *queue, amqp_method_number_t kind, amqp_bytes_t name)
{
    return names_is_promised(&queue->backlog.names, kind, name.bytes, name.len);
}

/* queue.bind and exchange.bind, and their opposites, name two. */
static bool is_end_promised(const struct queue *queue, amqp_method_number_t kind, amqp_bytes_t name,
                            amqp_bytes_t exchange)
{
    return is_promised(queue, kind, name) ||
           is_promised(queue, AMQP_EXCHANGE_DECLARE_METHOD, exchange);
}

bool offline_names_promised(const struct queue *queue, amqp_method_number_t method,
                            const void *decoded)
{
    const amqp_method_number_t of_queue = AMQP_QUEUE_DECLARE_METHOD;
    const amqp_method_number_t of_exchange = AMQP_EXCHANGE_DECLARE_METHOD;
    if (queue->backlog.names.promised.count == 0)
        return false;
    switch (method) {
    case AMQP_BASIC_CONSUME_METHOD:
        return is_promised(queue, of_queue, ((const amqp_basic_consume_t *)decoded)->queue);
    case AMQP_BASIC_GET_METHOD:
        return is_promised(queue, of_queue, ((const amqp_basic_get_t *)decoded)->queue);
    case AMQP_QUEUE_PURGE_METHOD:
        return is_promised(queue, of_queue, ((const amqp_queue_purge_t *)decoded)->queue);
    case AMQP_QUEUE_DELETE_METHOD:
        return is_promised(queue, of_queue, ((const amqp_queue_delete_t *)decoded)->queue);
    case AMQP_EXCHANGE_DELETE_METHOD:
        return is_promised(queue, of_exchange, ((const amqp_exchange_delete_t *)decoded)->exchange);
    case AMQP_QUEUE_DECLARE_METHOD: {
        const amqp_queue_declare_t *m = decoded;
        return m->passive && is_promised(queue, of_queue, m->queue);
    }
    case AMQP_EXCHANGE_DECLARE_METHOD: {
        const amqp_exchange_declare_t *m = decoded;
        return m->passive && is_promised(queue, of_exchange, m->exchange);
    }
    case AMQP_QUEUE_BIND_METHOD: {
        const amqp_queue_bind_t *m = decoded;
        return is_end_promised(queue, of_queue, m->queue, m->exchange);
    }
    case AMQP_QUEUE_UNBIND_METHOD: {
        const amqp_queue_unbind_t *m = decoded;
        return is_end_promised(queue, of_queue, m->queue, m->exchange);
    }
    case AMQP_EXCHANGE_BIND_METHOD: {
        const amqp_exchange_bind_t *m = decoded;
        return is_end_promised(queue, of_exchange, m->destination, m->source);
    }
    case AMQP_EXCHANGE_UNBIND_METHOD: {
        const amqp_exchange_unbind_t *m = decoded;
        return is_end_promised(queue, of_exchange, m->destination, m->source);
    }
    default:
        return false;
    }
}

bool offline_can_answer(amqp_method_number_t method, const void *decoded)
{
    switch (method) {
    case AMQP_QUEUE_DECLARE_METHOD: {
        const amqp_queue_declare_t *m = decoded;
        return m->queue.len > 0 && !m->exclusive;
    }
    case AMQP_EXCHANGE_DECLARE_METHOD:
    case AMQP_QUEUE_BIND_METHOD:
    case AMQP_EXCHANGE_BIND_METHOD:
    case AMQP_BASIC_QOS_METHOD:
    case AMQP_TX_SELECT_METHOD:
    case AMQP_TX_COMMIT_METHOD:
    case AMQP_TX_ROLLBACK_METHOD:
        return true;
    default:
        return false;
    }
}

static void answer(struct channel *ch, amqp_method_number_t method, void *decoded)
{
    if (!offline_can_answer(method, decoded)) {
        refuse(ch, method);
        return;
    }
    switch (method) {
    case AMQP_EXCHANGE_DECLARE_METHOD:
        declare_exchange(ch, decoded);
        return;
    case AMQP_QUEUE_DECLARE_METHOD:
        declare_queue(ch, decoded);
        return;
    case AMQP_QUEUE_BIND_METHOD:
        bind_queue(ch, decoded);
        return;
    case AMQP_EXCHANGE_BIND_METHOD:
        bind_exchange(ch, decoded);
        return;
    case AMQP_BASIC_QOS_METHOD:
        remember_qos(ch, decoded);
        return;
    case AMQP_TX_SELECT_METHOD:
        ch->transactional = true;
        channel_send(ch, AMQP_TX_SELECT_OK_METHOD, &(amqp_tx_select_ok_t){0});
        return;
    case AMQP_TX_COMMIT_METHOD:
    case AMQP_TX_ROLLBACK_METHOD:
        if (ch->transactional) {
            end_transaction(ch, method == AMQP_TX_COMMIT_METHOD);
            return;
        }
        channel_refuse(ch, 406, "PRECONDITION_FAILED - channel is not transactional", method);
        return;
    default:
        refuse(ch, method);
    }
}

void offline_method(struct channel *ch, const uint8_t *payload, size_t len,
                    amqp_method_number_t method)
{
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t number;
    void *decoded;
    if (method_decode(&arena, payload, len, &number, &decoded))
        answer(ch, method, decoded);
    method_arena_deinit(&arena);
}

static bool can_be_kept(amqp_method_number_t method, const void *decoded)
{
    switch (method) {
    case AMQP_EXCHANGE_DECLARE_METHOD:
        return !((const amqp_exchange_declare_t *)decoded)->passive;
    case AMQP_QUEUE_DECLARE_METHOD: {
        const amqp_queue_declare_t *m = decoded;
        return !m->passive && !m->exclusive && m->queue.len > 0;
    }
    case AMQP_QUEUE_BIND_METHOD:
    case AMQP_EXCHANGE_BIND_METHOD:
        return true;
    default:
        return false;
    }
}

void offline_keep(struct pool *pool, const uint8_t *payload, size_t len)
{
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t method;
    void *decoded;
    if (method_decode(&arena, payload, len, &method, &decoded) && can_be_kept(method, decoded) &&
        queue_has_room(pool->queue)) {
        struct slab *slab = slab_new(len + FRAME_OVERHEAD_BYTES);
        ENSURE(slab);
        struct frame frame = {.type = FRAME_METHOD,
                              .payload = slab->data + FRAME_HEAD_BYTES,
                              .payload_len = (uint32_t)len};
        memcpy(frame.payload, payload, len);
        method_set_nowait(frame.payload, len, false); /* its reply shows that it is done */
        uint64_t hash = expires(method, decoded) ? 0 : declared_hash(frame.payload, len);
        if (!hash || !declared_has(&pool->queue->backlog.declared, hash))
            append_declaration(pool, (struct publisher){0}, slab, &frame, hash);
        slab_unref(slab);
        promise(pool->queue, method, decoded);
    }
    method_arena_deinit(&arena);
}
