#include "session/offline.h"

#include <stdio.h>
#include <string.h>

#include "amqp/rules.h"
#include "base/assert.h"
#include "drain/declared.h"
#include "pool/append.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/refusal.h"
#include "session/rewrite.h"
#include "session/transaction.h"

static bool refuse(struct refusal *why, amqp_method_number_t method)
{
    refusal_set(why, REFUSED_CHANNEL, 406,
                "PRECONDITION_FAILED - upstream unavailable: only publishing is buffered", method);
    return false;
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
static bool keep(struct channel *ch, amqp_method_number_t method, const void *decoded,
                 struct refusal *why)
{
    struct pool *pool = ch->client->member.pool;
    struct kept kept = encode(method, decoded);
    if (!kept.slab) {
        refusal_set(why, REFUSED_CLIENT, 506, "RESOURCE_ERROR - out of memory for this method",
                    method);
        return false;
    }
    bool waits = waits_already(pool->queue, &kept), full = !waits && !queue_has_room(pool->queue);
    if (full)
        refusal_set(why, REFUSED_CHANNEL, 506, "RESOURCE_ERROR - publish buffer full", method);
    else if (!waits)
        append_declaration(pool, channel_publisher(ch), kept.slab, &kept.frame, kept.hash);
    slab_unref(kept.slab);
    return !full;
}

/* A declaration is kept as one that is answered: its reply shows that it is done. */
static bool take_out_nowait(amqp_method_number_t method, void *decoded)
{
    amqp_boolean_t *nowait = rule_nowait(method, decoded);
    bool was = *nowait;
    *nowait = 0;
    return was;
}

bool offline_takes_place(const struct channel *ch, amqp_method_number_t method, void *decoded)
{
    if (!rule_has(method, RULE_KEPT) || rule_is_passive(method, decoded))
        return false;
    bool nowait = take_out_nowait(method, decoded);
    struct kept kept = encode(method, decoded);
    *rule_nowait(method, decoded) = nowait;
    bool takes = !waits_already(ch->client->member.pool->queue, &kept);
    if (kept.slab)
        slab_unref(kept.slab);
    return takes;
}

/* A passive declaration asks whether it is there. Who hears no declares it, as with RabbitMQ. */
static bool is_there(struct channel *ch, amqp_method_number_t method, amqp_bytes_t name,
                     struct refusal *why)
{
    const struct pool *pool = ch->client->member.pool;
    if (names_has_seen(&pool->queue->backlog.names, method, name.bytes, name.len))
        return true;
    char text[256];
    snprintf(text, sizeof text, "NOT_FOUND - no %s '%.*s' in vhost '%s'",
             method == AMQP_QUEUE_DECLARE_METHOD ? "queue" : "exchange", (int)name.len,
             (const char *)name.bytes, pool->vhost);
    refusal_set(why, REFUSED_CHANNEL, 404, text, method);
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

static amqp_bytes_t name_of(amqp_method_number_t method, const void *decoded)
{
    return method == AMQP_QUEUE_DECLARE_METHOD
               ? ((const amqp_queue_declare_t *)decoded)->queue
               : ((const amqp_exchange_declare_t *)decoded)->exchange;
}

static void send_ok(struct channel *ch, amqp_method_number_t method, const void *decoded)
{
    amqp_queue_declare_ok_t of_queue = {0};
    if (method == AMQP_QUEUE_DECLARE_METHOD)
        of_queue.queue = name_of(method, decoded);
    channel_send(ch, method + 1, &of_queue); /* the others have no fields */
}

/* Of a queue or an exchange, or a binding. */
static bool declare(struct channel *ch, amqp_method_number_t method, void *decoded,
                    struct refusal *why)
{
    bool answers = !take_out_nowait(method, decoded);
    if (rule_is_passive(method, decoded)) {
        if (!is_there(ch, method, name_of(method, decoded), why))
            return false;
    } else if (keep(ch, method, decoded, why)) {
        promise(ch->client->member.pool->queue, method, decoded);
    } else {
        return false;
    }
    if (method == AMQP_QUEUE_DECLARE_METHOD) {
        amqp_bytes_t name = name_of(method, decoded);
        channel_set_last_queue(ch, name.bytes, name.len);
    }
    if (answers)
        send_ok(ch, method, decoded);
    return true;
}

static void remember_qos(struct channel *ch, const amqp_basic_qos_t *m)
{
    channel_remember_qos(ch, m);
    channel_send(ch, AMQP_BASIC_QOS_OK_METHOD, &(amqp_basic_qos_ok_t){0});
}

static void send_end_ok(struct channel *ch, bool commit)
{
    if (commit)
        channel_send(ch, AMQP_TX_COMMIT_OK_METHOD, &(amqp_tx_commit_ok_t){0});
    else
        channel_send(ch, AMQP_TX_ROLLBACK_OK_METHOD, &(amqp_tx_rollback_ok_t){0});
}

static void end_transaction(struct channel *ch, bool commit)
{
    struct transaction *tx = commit ? ch->tx : NULL;
    if (tx) {
        ch->tx = NULL;
        transaction_commit(tx, ch->client->member.pool);
    }
    channel_drop_transaction(ch);
    if (!tx) /* else it is answered when that is stored */
        send_end_ok(ch, commit);
}

bool offline_lost_end(struct channel *ch, amqp_method_number_t method)
{
    if (!ch->transactional || !rule_has(method, RULE_ENDS))
        return false;
    send_end_ok(ch, method == AMQP_TX_COMMIT_METHOD);
    return true;
}

bool offline_names_promised(const struct queue *queue, amqp_method_number_t method,
                            const void *decoded)
{
    const struct names *names = &queue->backlog.names;
    struct rule_name named[RULE_NAMES_MAX];
    unsigned count = declared_count(&names->promised) > 0 ? rule_names(method, decoded, named) : 0;
    for (unsigned i = 0; i < count; i++)
        if (names_is_promised(names, named[i].kind, named[i].name.bytes, named[i].name.len))
            return true;
    return false;
}

/* RabbitMQ alone makes up a name, and knows whose a queue is. */
bool offline_can_answer(amqp_method_number_t method, const void *decoded)
{
    const amqp_queue_declare_t *m = method == AMQP_QUEUE_DECLARE_METHOD ? decoded : NULL;
    bool is_rabbitmqs = m && !m->passive && (m->queue.len == 0 || m->exclusive);
    return rule_has(method, RULE_HERE) && !is_rabbitmqs;
}

bool offline_is_guess(const struct queue *queue, amqp_method_number_t method, const void *decoded)
{
    if (method == AMQP_QUEUE_DECLARE_METHOD) {
        const amqp_queue_declare_t *m = decoded;
        bool may_be_gone = !m->durable || m->auto_delete, wants_counts = m->passive;
        if (may_be_gone || wants_counts)
            return true;
    } else if (method != AMQP_EXCHANGE_DECLARE_METHOD) {
        return false;
    }
    amqp_bytes_t name = name_of(method, decoded);
    return !names_is_sure(&queue->backlog.names, method, name.bytes, name.len);
}

/* False: it is refused. */
static bool answer(struct channel *ch, amqp_method_number_t method, void *decoded,
                   struct refusal *why)
{
    if (!offline_can_answer(method, decoded))
        return refuse(why, method);
    if (rule_has(method, RULE_KEPT))
        return declare(ch, method, decoded, why);
    switch (method) {
    case AMQP_BASIC_QOS_METHOD:
        remember_qos(ch, decoded);
        return true;
    case AMQP_TX_SELECT_METHOD:
        ch->transactional = true;
        channel_send(ch, AMQP_TX_SELECT_OK_METHOD, &(amqp_tx_select_ok_t){0});
        return true;
    case AMQP_TX_COMMIT_METHOD:
    case AMQP_TX_ROLLBACK_METHOD:
        if (ch->transactional) {
            end_transaction(ch, method == AMQP_TX_COMMIT_METHOD);
            return true;
        }
        refusal_set(why, REFUSED_CHANNEL, 406, "PRECONDITION_FAILED - channel is not transactional",
                    method);
        return false;
    default:
        return refuse(why, method);
    }
}

bool offline_method(struct channel *ch, const uint8_t *payload, size_t len,
                    amqp_method_number_t method, struct refusal *why)
{
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t number;
    void *decoded;
    bool done =
        !method_decode(&arena, payload, len, &number, &decoded) || answer(ch, method, decoded, why);
    method_arena_deinit(&arena);
    return done;
}

static bool can_be_kept(amqp_method_number_t method, const void *decoded)
{
    return rule_has(method, RULE_KEPT) && !rule_is_passive(method, decoded) &&
           offline_can_answer(method, decoded);
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
