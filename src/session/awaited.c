#include "session/awaited.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/wire.h"
#include "base/assert.h"
#include "session/transaction.h"

void calls_deinit(struct calls *calls)
{
    while (calls->count > 0)
        calls_end(calls, calls_at(calls, 0));
    free(calls->ring);
    *calls = (struct calls){0};
}

static void grow(struct calls *calls)
{
    uint32_t capacity = calls->capacity ? calls->capacity * 2 : 2;
    struct awaited *ring = malloc(capacity * sizeof *ring);
    ENSURE(ring);
    for (uint32_t i = 0; i < calls->count; i++)
        ring[i] = *calls_at(calls, i);
    free(calls->ring);
    calls->ring = ring;
    calls->capacity = capacity;
    calls->first = 0;
}

struct awaited *calls_add(struct calls *calls, amqp_method_number_t method, uint64_t stamp)
{
    if (calls->count == calls->capacity)
        grow(calls);
    struct awaited *call = calls_at(calls, calls->count++);
    *call = (struct awaited){.stamp = stamp, .method = method};
    return call;
}

void calls_keep(struct calls *calls, struct span payload)
{
    ENSURE(calls->count > 0);
    calls_at(calls, calls->count - 1)->payload = payload;
    calls->bytes += (uint32_t)payload.len;
}

/* Both begin their fields with short strings; the tag is the one behind `skipped` octets, and
 * behind one more string in basic.consume. */
static struct cursor tag_of(const uint8_t *payload, size_t len, unsigned skipped, bool is_second)
{
    enum { METHOD_BYTES = 4 };
    struct cursor c = {.at = payload, .end = payload + len};
    cursor_take(&c, METHOD_BYTES + skipped);
    if (is_second)
        cursor_skip_short_string(&c);
    size_t tag_len = cursor_u8(&c);
    const uint8_t *tag = cursor_take(&c, tag_len);
    return (struct cursor){.at = tag, .end = tag ? tag + tag_len : NULL, .failed = !tag};
}

/* RabbitMQ makes up a tag where the client gave none. */
static bool is_of_consumer(const struct awaited *call, const struct frame *reply)
{
    enum { TICKET_BYTES = 2 };
    bool consumes = call->method == AMQP_BASIC_CONSUME_METHOD;
    struct cursor asked = tag_of(call->payload.at, call->payload.len, consumes ? TICKET_BYTES : 0,
                                 consumes),
                  told = tag_of(reply->payload, reply->payload_len, 0, false);
    size_t len = (size_t)(asked.end - asked.at);
    return !asked.failed && !told.failed &&
           (len == 0 ||
            (len == (size_t)(told.end - told.at) && memcmp(asked.at, told.at, len) == 0));
}

static bool is_answered_late(amqp_method_number_t method)
{
    return method == AMQP_BASIC_CONSUME_METHOD || method == AMQP_BASIC_CANCEL_METHOD;
}

/* RabbitMQ says it without being asked. */
static bool is_unasked(amqp_method_number_t method)
{
    return method == AMQP_BASIC_DELIVER_METHOD || method == AMQP_BASIC_RETURN_METHOD ||
           method == AMQP_BASIC_CANCEL_METHOD || method == AMQP_CHANNEL_FLOW_METHOD;
}

struct awaited *calls_find(const struct calls *calls, amqp_method_number_t reply,
                           const struct frame *frame)
{
    bool is_late = is_answered_late(reply - 1);
    struct awaited *oldest = NULL; /* if the tag is that of none of them */
    for (uint32_t i = 0; i < calls->count && !is_unasked(reply); i++) {
        struct awaited *call = calls_at(calls, i);
        if (is_late ? call->method != reply - 1 : is_answered_late(call->method))
            continue;
        if (!is_late || is_of_consumer(call, frame))
            return call;
        oldest = oldest ? oldest : call;
    }
    return oldest;
}

static void take_out(struct calls *calls, uint32_t index)
{
    for (; index > 0; index--)
        *calls_at(calls, index) = *calls_at(calls, index - 1);
    calls->first = (calls->first + 1) & (calls->capacity - 1);
    calls->count--;
}

bool calls_end(struct calls *calls, struct awaited *call)
{
    uint32_t place = (uint32_t)(call - calls->ring);
    uint32_t index = (place - calls->first) & (calls->capacity - 1);
    ENSURE(index < calls->count);
    bool client_waits = (call->payload.slab && !call->nowait) || call->is_half;
    calls->bytes -= (uint32_t)call->payload.len;
    span_clear(&call->payload);
    if (call->tx)
        transaction_free(call->tx);
    take_out(calls, index);
    return client_waits;
}
