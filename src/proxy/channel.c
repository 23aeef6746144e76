#include "proxy/channel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/crash_point.h"
#include "base/handles.h"
#include "proxy/client.h"
#include "proxy/pool.h"
#include "proxy/proxy.h"
#include "proxy/queue.h"
#include "proxy/relay.h"
#include "proxy/rewrite.h"
#include "proxy/router.h"
#include "proxy/spooler.h"
#include "proxy/wire_out.h"

/* ---- confirms to the client ---- */

static void schedule_acks(struct channel *ch)
{
    if (list_empty(&ch->ack_node))
        list_append(&ch->client->proxy->acking, &ch->ack_node);
}

void channel_flush_acks(struct channel *ch)
{
    list_remove(&ch->ack_node);
    if (ch->inside_content)
        return; /* a method must not stand between a method and its content */
    struct ledger_answer answer;
    while (ledger_take(&ch->ledger, &answer)) {
        wire_send_confirm(&ch->client->stream, ch->number, answer.tag, answer.multiple,
                          answer.nack);
        CRASH_POINT("after_ack");
    }
}

static void decide(struct channel *ch, uint64_t tag, bool safe)
{
    if (ch->state != CHANNEL_REFUSED && ledger_decide(&ch->ledger, tag, safe))
        schedule_acks(ch);
}

void channel_ack(struct channel *ch, uint64_t tag)
{
    decide(ch, tag, true);
}

void channel_nack(struct channel *ch, uint64_t tag)
{
    decide(ch, tag, false);
}

/* ---- closing ---- */

void channel_send(struct channel *ch, amqp_method_number_t method, const void *fields)
{
    channel_flush_acks(ch);
    wire_send(&ch->client->stream, ch->number, method, fields);
}

static void cancel_content(struct channel *ch)
{
    ch->rejecting = false;
    content_deinit(&ch->content);
    content_init(&ch->content);
    if (ch->client->ready == ch)
        ch->client->ready = NULL;
}

void channel_drop_transaction(struct channel *ch)
{
    if (ch->tx)
        job_free(ch->tx);
    ch->tx = NULL;
    ch->tx_sent = false;
    if (ch->tx_reserved == 0)
        return;
    struct queue *queue = ch->client->pool->queue;
    queue->reserved -= ch->tx_reserved;
    ch->tx_reserved = 0;
    queue_changed(queue);
}

static void let_go(struct channel *ch)
{
    cancel_content(ch);
    channel_drop_transaction(ch);
    if (ch->relay)
        relay_release(ch->relay);
    list_remove(&ch->ack_node);
    ledger_deinit(&ch->ledger);
}

void channel_free(struct channel *ch)
{
    let_go(ch);
    handles_remove(ch->handle);
    client_remove_channel(ch->client, ch);
    content_deinit(&ch->content);
    free(ch->last_queue);
    free(ch);
}

void channel_refuse_bytes(struct channel *ch, uint16_t code, amqp_bytes_t text,
                          amqp_method_number_t cause)
{
    if (ch->state == CHANNEL_REFUSED)
        return;
    channel_flush_acks(ch);
    let_go(ch);
    if (ch->client->state == CLIENT_SETTLING) { /* the client waits for connection.close-ok alone */
        struct client *client = ch->client;
        channel_free(ch);
        client_settled(client);
        return;
    }
    wire_send_close_bytes(&ch->client->stream, ch->number, code, text, cause);
    ch->state = CHANNEL_REFUSED;
}

void channel_refuse(struct channel *ch, uint16_t code, const char *text, amqp_method_number_t cause)
{
    channel_refuse_bytes(ch, code, bytes_of(text), cause);
}

uint64_t channel_unsafe(const struct channel *ch)
{
    return ch->spooling + (ch->relay ? ch->relay->open : 0);
}

static void finish_close(struct channel *ch)
{
    struct client *client = ch->client;
    channel_flush_acks(ch);
    if (client->state == CLIENT_OPEN)
        wire_send_plain(&client->stream, ch->number, AMQP_CHANNEL_CLOSE_OK_METHOD);
    channel_free(ch);
    client_settled(client);
}

void channel_closed_upstream(struct channel *ch)
{
    ENSURE(ch->state == CHANNEL_CLOSING);
    finish_close(ch);
}

/* The close is answered once all publishes are safe. A channel of which RabbitMQ knows more than
 * publishes (or confirms nothing) is closed there first, so that its close-ok means the same. */
static void advance_close(struct channel *ch)
{
    struct pool *pool = ch->client->pool;
    bool wait = pool->proxy->config->pool.close_waits || pool->state != POOL_LIVE;
    if (ch->state != CHANNEL_SETTLING || (wait && channel_unsafe(ch) > 0))
        return;
    if (ch->relay && !(ch->relay->shared && ch->relay->confirming)) {
        ch->state = CHANNEL_CLOSING;
        relay_close(ch->relay);
        return;
    }
    finish_close(ch);
}

void channel_begin_close(struct channel *ch)
{
    if (ch->state != CHANNEL_OPEN)
        return;
    cancel_content(ch);
    channel_drop_transaction(ch); /* not committed: gone, as in RabbitMQ */
    ch->state = CHANNEL_SETTLING;
    advance_close(ch);
}

void channel_settled(struct channel *ch)
{
    advance_close(ch);
}

/* ---- frames ---- */

void channel_open(struct client *client, uint16_t number)
{
    struct channel *ch = calloc(1, sizeof *ch);
    ENSURE(ch);
    ch->client = client;
    ch->number = number;
    ch->handle = handles_add(ch);
    content_init(&ch->content);
    list_init(&ch->ack_node);
    client_add_channel(client, ch);
    amqp_channel_open_ok_t ok = {.channel_id = amqp_empty_bytes};
    wire_send(&client->stream, number, AMQP_CHANNEL_OPEN_OK_METHOD, &ok);
}

void channel_set_last_queue(struct channel *ch, const void *name, size_t len)
{
    char *copy = strndup(name, len);
    ENSURE(copy);
    free(ch->last_queue);
    ch->last_queue = copy;
}

/* confirm.select is the proxy's own affair: publishes are confirmed upstream anyway. */
static bool select_confirms(struct channel *ch, const struct frame *frame)
{
    if (ch->relay && ch->relay->call_count > 0) { /* replies keep their order */
        client_hold(ch->client);
        return false;
    }
    if (ch->transactional) {
        channel_refuse(ch, 406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode",
                       AMQP_CONFIRM_SELECT_METHOD);
        return true;
    }
    ch->confirming = true;
    bool nowait = frame->payload_len > 4 && (frame->payload[4] & 1);
    if (!nowait)
        channel_send(ch, AMQP_CONFIRM_SELECT_OK_METHOD, &(amqp_confirm_select_ok_t){0});
    return true;
}

static bool begin_publish(struct channel *ch, struct slab *slab, const struct frame *frame)
{
    struct publish publish;
    struct frame full = *frame;
    struct slab *made = NULL;
    if (!publish_parse(frame->payload, frame->payload_len, &publish)) {
        client_refuse(ch->client, 502, "SYNTAX_ERROR - malformed basic.publish",
                      AMQP_BASIC_PUBLISH_METHOD);
        return true;
    }
    switch (router_begin_publish(ch, &publish)) {
    case ROUTE_HELD:
        client_hold(ch->client);
        return false;
    case ROUTE_REFUSED:
        return true;
    case ROUTE_DONE:
        break;
    }
    if (!rewrite_publish(ch, &publish, &full, &made)) {
        client_refuse(ch->client, 506, "RESOURCE_ERROR - out of memory for this message",
                      AMQP_BASIC_PUBLISH_METHOD);
        return true;
    }
    content_begin(&ch->content, made ? made : slab, &full);
    if (made)
        slab_unref(made);
    return true;
}

static void unexpected_frame(struct channel *ch, const struct frame *frame)
{
    static const char *const names[] = {"", "method", "content header", "content body"};
    char text[128];
    snprintf(text, sizeof text, "UNEXPECTED_FRAME - expected %s, got %s frame instead",
             ch->content.state == CONTENT_HEADER ? "content header"
             : ch->content.state == CONTENT_BODY ? "content body"
                                                 : "method",
             frame->type <= FRAME_BODY ? names[frame->type] : "another");
    client_refuse(ch->client, 505, text, AMQP_BASIC_PUBLISH_METHOD);
}

static bool take_method(struct channel *ch, struct slab *slab, const struct frame *frame)
{
    amqp_method_number_t method = method_number(frame->payload, frame->payload_len);
    if (ch->content.state != CONTENT_IDLE) {
        unexpected_frame(ch, frame);
        return true;
    }
    switch (method) {
    case AMQP_BASIC_PUBLISH_METHOD:
        return begin_publish(ch, slab, frame);
    case AMQP_CHANNEL_CLOSE_METHOD:
        channel_begin_close(ch);
        return true;
    case AMQP_CHANNEL_OPEN_METHOD:
        client_refuse(ch->client, 504, "CHANNEL_ERROR - second 'channel.open' seen", method);
        return true;
    case AMQP_CONFIRM_SELECT_METHOD:
        return select_confirms(ch, frame);
    default:
        break;
    }
    if (!method_known(method)) {
        bool unknown = strcmp(method_name(method), "?") == 0;
        char text[128];
        snprintf(text, sizeof text, "%s method %u.%u",
                 unknown ? "NOT_IMPLEMENTED - unknown" : "COMMAND_INVALID - unexpected",
                 method >> 16, method & 0xFFFF);
        client_refuse(ch->client, unknown ? 540 : 503, text, method);
        return true;
    }
    if (router_method(ch, slab, frame, method) != ROUTE_HELD)
        return true;
    client_hold(ch->client);
    return false;
}

bool channel_retry(struct channel *ch)
{
    switch (router_publish(ch)) {
    case ROUTE_HELD:
        ch->client->ready = ch;
        client_hold(ch->client);
        return false;
    case ROUTE_REFUSED:
    case ROUTE_DONE:
        break;
    }
    return true;
}

static void refuse_content(struct channel *ch, enum content_result result,
                           const struct frame *frame)
{
    struct client *client = ch->client;
    switch (result) {
    case CONTENT_UNEXPECTED_FRAME:
        unexpected_frame(ch, frame);
        break;
    case CONTENT_BODY_TOO_LONG:
        client_refuse(client, 501, "FRAME_ERROR - more body than the content header announced",
                      AMQP_BASIC_PUBLISH_METHOD);
        break;
    case CONTENT_WRONG_CLASS:
        client_refuse(client, 501, "FRAME_ERROR - content header of another class",
                      AMQP_BASIC_PUBLISH_METHOD);
        break;
    case CONTENT_MALFORMED:
        client_refuse(client, 502, "SYNTAX_ERROR - malformed message properties",
                      AMQP_BASIC_PUBLISH_METHOD);
        break;
    case CONTENT_TOO_LARGE:
        channel_refuse(ch, 406, "PRECONDITION_FAILED - message larger than spool.max_message_size",
                       AMQP_BASIC_PUBLISH_METHOD);
        break;
    default:
        client_refuse(client, 506, "RESOURCE_ERROR - out of memory for this message",
                      AMQP_BASIC_PUBLISH_METHOD);
    }
}

static bool take_content(struct channel *ch, struct slab *slab, const struct frame *frame)
{
    uint64_t max = ch->client->proxy->config->spool.max_message_size_bytes;
    enum content_result result = content_feed(&ch->content, slab, frame, max);
    if (result == CONTENT_COMPLETE) {
        /* Held or not, the frame is taken: a publish that has to wait is kept whole. */
        channel_retry(ch);
        return true;
    }
    if (result != CONTENT_MORE)
        refuse_content(ch, result, frame);
    return true;
}

/* Between our channel.close and the client's answer everything is discarded (1.4.2.3). */
static void discard(struct channel *ch, const struct frame *frame)
{
    if (frame->type != FRAME_METHOD)
        return;
    amqp_method_number_t method = method_number(frame->payload, frame->payload_len);
    struct client *client = ch->client;
    if (method == AMQP_CHANNEL_CLOSE_METHOD)
        wire_send_plain(&client->stream, ch->number, AMQP_CHANNEL_CLOSE_OK_METHOD);
    else if (method != AMQP_CHANNEL_CLOSE_OK_METHOD)
        return;
    channel_free(ch);
}

bool channel_frame(struct channel *ch, struct slab *slab, const struct frame *frame)
{
    if (ch->state == CHANNEL_REFUSED) {
        discard(ch, frame);
        return true;
    }
    if (ch->state != CHANNEL_OPEN)
        return true; /* after its channel.close a client has nothing more to say */
    return frame->type == FRAME_METHOD ? take_method(ch, slab, frame)
                                       : take_content(ch, slab, frame);
}
