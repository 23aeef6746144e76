#include "session/rewrite.h"

#include <string.h>

#include "amqp/rules.h"
#include "amqp/wire.h"
#include "session/channel.h"
#include "session/refusal.h"

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

static bool has_last_queue(const struct channel *ch, amqp_method_number_t method,
                           struct refusal *why)
{
    if (ch->last_queue.bytes)
        return true;
    refusal_set(why, REFUSED_CHANNEL, 404, "NOT_FOUND - no previously declared queue", method);
    return false;
}

bool rewrite_queue_name(struct channel *ch, amqp_method_number_t method, void *decoded,
                        struct frame *frame, struct slab **made, struct refusal *why)
{
    amqp_bytes_t *queue = rule_default_queue(method, decoded);
    if (!queue || queue->len > 0)
        return true;
    if (!has_last_queue(ch, method, why))
        return false;
    amqp_bytes_t *key = rule_default_key(method, decoded);
    *queue = ch->last_queue;
    if (key && key->len == 0) /* rabbit_channel: both empty mean the queue's name twice */
        *key = *queue;
    *made = rewrite_encode(method, decoded, frame);
    if (!*made)
        refusal_set(why, REFUSED_CLIENT, 506, "RESOURCE_ERROR - out of memory for this method",
                    method);
    return *made;
}
