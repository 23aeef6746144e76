#include "session/rewrite.h"

#include <string.h>

#include "amqp/wire.h"
#include "session/channel.h"
#include "session/client.h"

enum { FIRST_BYTES = 1024, MOST_BYTES = 1024 * 1024 * 1024 };

struct slab *rewrite_encode(amqp_method_number_t method, const void *decoded, struct frame *frame)
{
    struct slab *slab = NULL;
    size_t size = 0;
    for (size_t capacity = FIRST_BYTES; size == 0; capacity *= 2) {
        if (slab)
            slab_unref(slab);
        slab = capacity <= MOST_BYTES ? slab_new(capacity) : NULL;
        if (!slab)
            return NULL;
        size = method_encode(slab->data, slab->capacity, frame->channel, method, decoded);
    }
    frame->type = FRAME_METHOD;
    frame->payload = slab->data + FRAME_HEAD_BYTES;
    frame->payload_len = (uint32_t)(size - FRAME_OVERHEAD_BYTES);
    slab->used = size;
    return slab;
}

/* Where a method names a queue that may be left empty; NULL if it does not. */
static amqp_bytes_t *queue_field(amqp_method_number_t method, void *decoded)
{
    switch (method) {
    case AMQP_QUEUE_DECLARE_METHOD: {
        amqp_queue_declare_t *m = decoded;
        return m->passive ? &m->queue : NULL; /* otherwise RabbitMQ makes up a name */
    }
    case AMQP_QUEUE_BIND_METHOD:
        return &((amqp_queue_bind_t *)decoded)->queue;
    case AMQP_QUEUE_UNBIND_METHOD:
        return &((amqp_queue_unbind_t *)decoded)->queue;
    case AMQP_QUEUE_PURGE_METHOD:
        return &((amqp_queue_purge_t *)decoded)->queue;
    case AMQP_QUEUE_DELETE_METHOD:
        return &((amqp_queue_delete_t *)decoded)->queue;
    case AMQP_BASIC_CONSUME_METHOD:
        return &((amqp_basic_consume_t *)decoded)->queue;
    case AMQP_BASIC_GET_METHOD:
        return &((amqp_basic_get_t *)decoded)->queue;
    default:
        return NULL;
    }
}

/* The key of a binding, which means the queue's name if both are left empty. */
static amqp_bytes_t *key_field(amqp_method_number_t method, void *decoded)
{
    switch (method) {
    case AMQP_QUEUE_BIND_METHOD:
        return &((amqp_queue_bind_t *)decoded)->routing_key;
    case AMQP_QUEUE_UNBIND_METHOD:
        return &((amqp_queue_unbind_t *)decoded)->routing_key;
    default:
        return NULL;
    }
}

static bool has_last_queue(struct channel *ch, amqp_method_number_t method)
{
    if (ch->last_queue)
        return true;
    channel_refuse(ch, 404, "NOT_FOUND - no previously declared queue", method);
    return false;
}

static void note_declared(struct channel *ch, amqp_method_number_t method, const void *decoded)
{
    const amqp_queue_declare_t *m = decoded;
    if (method == AMQP_QUEUE_DECLARE_METHOD && m->queue.len > 0)
        channel_set_last_queue(ch, m->queue.bytes, m->queue.len);
}

bool rewrite_queue_name(struct channel *ch, amqp_method_number_t method, void *decoded,
                        struct frame *frame, struct slab **made)
{
    note_declared(ch, method, decoded);
    amqp_bytes_t *queue = queue_field(method, decoded);
    if (!queue || queue->len > 0)
        return true;
    if (!has_last_queue(ch, method))
        return false;
    amqp_bytes_t *key = key_field(method, decoded);
    *queue = bytes_of(ch->last_queue);
    if (key && key->len == 0) /* rabbit_channel: both empty mean the queue's name twice */
        *key = *queue;
    *made = rewrite_encode(method, decoded, frame);
    if (!*made)
        client_refuse(ch->client, 506, "RESOURCE_ERROR - out of memory for this method", method);
    return *made;
}
