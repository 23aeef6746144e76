#include "session/channel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/crash_point.h"
#include "base/handles.h"
#include "base/memory.h"
#include "peer/runtime.h"
#include "peer/send.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "session/client.h"
#include "session/redo.h"
#include "session/relay.h"
#include "session/router.h"
#include "spooler/spooler.h"

/* Closing. The client's channel.close is answered last: after the replies to what it sent before,
 * what was returned to it, and the end of a message that is on its way to it, once its publishes
 * are safe (SETTLING), and RabbitMQ has closed its own channel if it knows more of it than
 * publishes (CLOSING). RabbitMQ's error, or the proxy's, may come at any moment of that: it is
 * told, the client's close is answered behind it, and the number is free when the client's close-ok
 * is there too (REFUSED). */

enum { BEHIND_MAX_BYTES = 4096 }; /* then the client waits for the end of the content */

struct refusal {
    uint16_t code;
    amqp_method_number_t cause;
    uint8_t text_len;
    char text[UINT8_MAX];
};

/* ---- what the proxy itself says ---- */

/* Nothing may stand between a method and its content. */
static void say(struct channel *ch, const uint8_t *frame, size_t size)
{
    if (!ch->inside_content) {
        stream_write_copy(&ch->client->stream, frame, size);
        return;
    }
    ch->behind = memory_grow(ch->behind, ch->behind_len + size, 1);
    memcpy(ch->behind + ch->behind_len, frame, size);
    ch->behind_len += size;
}

static void say_behind(struct channel *ch)
{
    if (ch->behind_len > 0)
        stream_write_copy(&ch->client->stream, ch->behind, ch->behind_len);
    free(ch->behind);
    ch->behind = NULL;
    ch->behind_len = 0;
}

bool channel_is_owed(const struct channel *ch)
{
    return (ch->relay && relay_owes(ch->relay)) || ch->behind_len > BEHIND_MAX_BYTES;
}

/* ---- confirms to the client ---- */

static void schedule_acks(struct channel *ch)
{
    if (list_empty(&ch->ack_node))
        list_append(&ch->client->clients->acking, &ch->ack_node);
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
    uint8_t frame[FRAME_MIN_SIZE];
    size_t size = method_encode(frame, sizeof frame, ch->number, method, fields);
    ENSURE(size > 0); /* short strings and numbers, of which none fills a frame */
    channel_flush_acks(ch);
    say(ch, frame, size);
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
    struct queue *queue = ch->client->member.pool->queue;
    queue->reserved -= ch->tx_reserved;
    ch->tx_reserved = 0;
    queue_changed(queue);
}

static void let_go(struct channel *ch)
{
    cancel_content(ch);
    channel_drop_transaction(ch);
    redo_drop(ch);
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
    free(ch->refusal);
    free(ch->behind);
    free(ch->last_queue);
    free(ch->qos[0]);
    free(ch->qos[1]);
    free(ch);
}

struct publisher channel_publisher(const struct channel *ch)
{
    return (struct publisher){.channel = ch->handle, .client = ch->client->handle};
}

uint64_t channel_unsafe(const struct channel *ch)
{
    return ch->spooling + (ch->relay ? ch->relay->open : 0);
}

static void answer_close(struct channel *ch)
{
    if (close_move(&ch->close, CLOSE_WE_ANSWER))
        wire_send_plain(&ch->client->stream, ch->number, AMQP_CHANNEL_CLOSE_OK_METHOD);
}

static void finish_close(struct channel *ch)
{
    struct client *client = ch->client;
    channel_flush_acks(ch);
    if (client->state == CLIENT_OPEN)
        answer_close(ch);
    channel_free(ch);
    client_settled(client);
}

void channel_closed_upstream(struct channel *ch)
{
    ENSURE(ch->state == CHANNEL_CLOSING);
    finish_close(ch);
}

void channel_lost_upstream(struct channel *ch)
{
    if (ch->state == CHANNEL_CLOSING)
        ch->state = CHANNEL_SETTLING;
    channel_settled(ch);
}

/* The close is answered once all publishes are safe. A channel of which RabbitMQ knows more than
 * publishes (or confirms nothing) is closed there first, so that its close-ok means the same; in an
 * alarm that would be answered when it is over. */
static void settle(struct channel *ch)
{
    struct client *client = ch->client;
    struct relay *r = ch->relay;
    bool wait = pool_close_waits(client->member.pool), unread = r && relay_is_unread(r);
    if ((r && r->call_count > 0 && !unread) || (wait && channel_unsafe(ch) > 0))
        return;
    if (r && !(r->shared && r->confirming) && !unread) {
        ch->state = CHANNEL_CLOSING;
        relay_close(r);
    } else if (!ch->inside_content || client->state != CLIENT_OPEN) {
        finish_close(ch);
    }
}

static void advance_close(struct channel *ch)
{
    if (ch->state == CHANNEL_CLOSING && ch->relay && relay_is_unread(ch->relay)) {
        finish_close(ch);
    } else if (ch->state == CHANNEL_SETTLING) {
        settle(ch);
    } else if (ch->state == CHANNEL_REFUSED) {
        if (ch->spooling == 0)
            answer_close(ch); /* if it crosses */
        if (ch->close == CLOSE_DONE)
            channel_free(ch);
    }
}

static void refuse_now(struct channel *ch, const struct refusal *refusal)
{
    channel_flush_acks(ch);
    let_go(ch);
    wire_send_close_bytes(
        &ch->client->stream, ch->number, refusal->code,
        (amqp_bytes_t){.len = refusal->text_len, .bytes = (void *)(uintptr_t)refusal->text},
        refusal->cause);
    if (ch->client->state == CLIENT_SETTLING) { /* it waits for connection.close-ok alone */
        ch->state = CHANNEL_SETTLING;
    } else {
        close_move(&ch->close, CLOSE_WE_ASK);
        ch->state = CHANNEL_REFUSED;
    }
    advance_close(ch);
}

void channel_refuse_bytes(struct channel *ch, uint16_t code, amqp_bytes_t text,
                          amqp_method_number_t cause)
{
    if (ch->state >= CHANNEL_REFUSING)
        return;
    if (ch->client->state == CLIENT_LEAVING) { /* it hears no more of single channels */
        cancel_content(ch);
        return;
    }
    struct refusal refusal = {.code = code, .cause = cause};
    refusal.text_len = (uint8_t)(text.len < UINT8_MAX ? text.len : UINT8_MAX);
    memcpy(refusal.text, text.bytes, refusal.text_len);
    if (!ch->inside_content || !ch->relay) {
        refuse_now(ch, &refusal);
        return;
    }
    cancel_content(ch);
    ch->refusal = malloc(sizeof refusal);
    ENSURE(ch->refusal);
    *ch->refusal = refusal;
    ch->state = CHANNEL_REFUSING;
}

void channel_refuse(struct channel *ch, uint16_t code, const char *text, amqp_method_number_t cause)
{
    channel_refuse_bytes(ch, code, bytes_of(text), cause);
}

void channel_content_done(struct channel *ch)
{
    struct client *client = ch->client;
    ch->inside_content = false;
    say_behind(ch);
    channel_flush_acks(ch);
    if (client->member.held)
        pool_wake(client->member.pool);
    if (ch->state == CHANNEL_REFUSING)
        refuse_now(ch, ch->refusal);
    else
        advance_close(ch);
}

void channel_begin_close(struct channel *ch)
{
    if (ch->state == CHANNEL_SETTLING || ch->state == CHANNEL_CLOSING)
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

void channel_remember_qos(struct channel *ch, const amqp_basic_qos_t *asked)
{
    amqp_basic_qos_t **kept = &ch->qos[asked->global != 0];
    if (!*kept)
        *kept = malloc(sizeof **kept);
    ENSURE(*kept);
    **kept = *asked;
}

/* confirm.select is the proxy's own affair: publishes are confirmed upstream anyway. */
static bool select_confirms(struct channel *ch, const struct frame *frame)
{
    if (channel_is_owed(ch)) {
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
    content_begin(&ch->content, slab, frame);
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

static void second_open(struct channel *ch)
{
    client_refuse(ch->client, 504, "CHANNEL_ERROR - second 'channel.open' seen",
                  AMQP_CHANNEL_OPEN_METHOD);
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
        close_move(&ch->close, CLOSE_THEY_ASK);
        channel_begin_close(ch);
        return true;
    case AMQP_CHANNEL_CLOSE_OK_METHOD:
        client_refuse(ch->client, 503, "COMMAND_INVALID - unimplemented method", method);
        return true;
    case AMQP_CHANNEL_OPEN_METHOD:
        second_open(ch);
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
        client_refuse(client, 505, "UNEXPECTED_FRAME - expected content header for class 60",
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
    uint64_t max = ch->client->rt->config->spool.max_message_size_bytes;
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

/* After a channel.close, whoever sent it, only the end of the handshake matters (1.5.2.5). */
static void closing_frame(struct channel *ch, const struct frame *frame)
{
    amqp_method_number_t method =
        frame->type == FRAME_METHOD ? method_number(frame->payload, frame->payload_len) : 0;
    if (method == AMQP_CHANNEL_OPEN_METHOD)
        second_open(ch);
    else if ((method == AMQP_CHANNEL_CLOSE_METHOD && close_move(&ch->close, CLOSE_THEY_ASK)) ||
             (method == AMQP_CHANNEL_CLOSE_OK_METHOD && close_move(&ch->close, CLOSE_THEY_ANSWER)))
        advance_close(ch);
}

bool channel_frame(struct channel *ch, struct slab *slab, const struct frame *frame)
{
    if (ch->state != CHANNEL_OPEN) {
        closing_frame(ch, frame);
        return true;
    }
    return frame->type == FRAME_METHOD ? take_method(ch, slab, frame)
                                       : take_content(ch, slab, frame);
}

void channel_leave(struct channel *ch)
{
    if (ch->state != CHANNEL_OPEN || ch->confirming || ch->transactional) {
        channel_free(ch);
        return;
    }
    if (ch->relay)
        relay_release(ch->relay);
}

bool channel_leaving_frame(struct channel *ch, struct slab *slab, const struct frame *frame)
{
    bool idle = ch->content.state == CONTENT_IDLE;
    if (!idle)
        return frame->type == FRAME_METHOD ? take_method(ch, slab, frame)
                                           : take_content(ch, slab, frame);
    if (frame->type != FRAME_METHOD)
        return true;
    switch (method_number(frame->payload, frame->payload_len)) {
    case AMQP_BASIC_PUBLISH_METHOD:
        return begin_publish(ch, slab, frame);
    case AMQP_CHANNEL_CLOSE_METHOD:
        channel_free(ch); /* not answered: it awaits the end of its connection */
        return true;
    default:
        return true;
    }
}
