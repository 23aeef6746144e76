#include "session/replies.h"

#include "amqp/rules.h"
#include "amqp/wire.h"
#include "pool/held.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/outcome.h"
#include "session/relay_struct.h"

/* A frame goes on to the client; a body frame is cut where the client's frame_max is smaller.
 * Others cannot be cut, and RabbitMQ itself sends them whatever their size. */
static void pass_on(struct relay *r, struct slab *slab, const struct frame *frame)
{
    struct client *client = r->channel->client;
    struct stream *to = &client->stream;
    uint16_t number = r->channel->number;
    size_t size = frame->payload_len + FRAME_OVERHEAD_BYTES;
    if (frame->type != FRAME_BODY || client->frame_max == 0 || size <= client->frame_max) {
        frame_set_channel(frame->payload, number);
        stream_write_span(to, slab, frame->payload - FRAME_HEAD_BYTES, size);
    } else {
        size_t piece_max = client->frame_max - FRAME_OVERHEAD_BYTES;
        for (size_t done = 0; done < frame->payload_len;) {
            size_t left = frame->payload_len - done;
            size_t piece = left < piece_max ? left : piece_max;
            uint8_t head[FRAME_HEAD_BYTES] = {FRAME_BODY};
            wire_put16(head + 1, number);
            wire_put32(head + 3, (uint32_t)piece);
            stream_write_copy(to, head, sizeof head);
            stream_write_span(to, slab, frame->payload + done, piece);
            stream_write_copy(to, &(uint8_t){FRAME_END}, 1);
            done += piece;
        }
    }
    /* A client that does not read must not fill memory: its own upstream waits with it. */
    if (stream_is_full(to) && !r->shared)
        stream_pause(&r->link.upstream->stream);
}

void replies_pass_content(struct relay *r, struct slab *slab, const struct frame *frame)
{
    struct channel *channel = r->channel;
    if (!channel->inside_content)
        return;
    if (frame->type == FRAME_HEADER) {
        channel->content_left = frame->payload_len >= 12 ? wire_get64(frame->payload + 4) : 0;
    } else {
        uint64_t left = channel->content_left;
        channel->content_left = left > frame->payload_len ? left - frame->payload_len : 0;
    }
    pass_on(r, slab, frame);
    if (channel->content_left == 0) {
        outcome_end_return(r);
        channel_content_done(channel);
    }
}

/* RabbitMQ has said that this exchange is there. exchange.declare: two reserved octets, its name.
 */
static void note_exchange(struct relay *r, const struct span *declare)
{
    if (declare->len > 6 && declare->at[6] <= declare->len - 7)
        queue_note_seen(r->pool->queue, AMQP_EXCHANGE_DECLARE_METHOD, declare->at + 7,
                        declare->at[6]);
}

/* queue.declare-ok begins with the queue's name, a short string, perhaps one that RabbitMQ has made
 * up. It is the channel's last one now. */
static void note_queue(struct relay *r, const struct frame *frame)
{
    if (frame->payload_len <= 5 || frame->payload[4] > frame->payload_len - 5)
        return;
    queue_note_seen(r->pool->queue, AMQP_QUEUE_DECLARE_METHOD, frame->payload + 5,
                    frame->payload[4]);
    channel_set_last_queue(r->channel, frame->payload + 5, frame->payload[4]);
}

static void note_deleted(struct relay *r, const struct span *call)
{
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t method;
    void *decoded;
    if (method_decode(&arena, call->at, call->len, &method, &decoded)) {
        struct rule_name named[RULE_NAMES_MAX];
        if (rule_names(method, decoded, named) == 1)
            queue_note_gone(r->pool->queue, named->kind, named->name.bytes, named->name.len);
    }
    method_arena_deinit(&arena);
}

void replies_pass_method(struct relay *r, struct slab *slab, const struct frame *frame,
                         amqp_method_number_t method)
{
    struct awaited *call = calls_find(&r->calls, method, frame);
    const struct span *payload = call && call->payload.slab ? &call->payload : NULL;
    consuming_hear(&r->consuming, method, frame, payload);
    switch (method) {
    case AMQP_BASIC_RETURN_METHOD:
    case AMQP_BASIC_DELIVER_METHOD:
        r->channel->inside_content = true;
        r->channel->content_left = 1; /* until the header says how much it is */
        pass_on(r, slab, frame);
        return;
    case AMQP_BASIC_CANCEL_METHOD:
    case AMQP_CHANNEL_FLOW_METHOD:
        pass_on(r, slab, frame);
        return;
    case AMQP_BASIC_GET_OK_METHOD:
        r->channel->inside_content = true;
        r->channel->content_left = 1;
        break;
    case AMQP_QUEUE_DECLARE_OK_METHOD:
        note_queue(r, frame);
        break;
    case AMQP_EXCHANGE_DECLARE_OK_METHOD:
        if (payload)
            note_exchange(r, payload);
        break;
    case AMQP_QUEUE_DELETE_OK_METHOD:
    case AMQP_EXCHANGE_DELETE_OK_METHOD:
        if (payload)
            note_deleted(r, payload);
        break;
    default:
        break;
    }
    if (!call)
        return;
    if (calls_end(&r->calls, call))
        pass_on(r, slab, frame);
    if (r->calls.count == 0 || r->calls.count == AWAITED_MAX / 2)
        held_wake(r->pool);
    channel_settled(r->channel);
}
