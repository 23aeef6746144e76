#include "session/channel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/crash_point.h"
#include "base/handles.h"
#include "base/memory.h"
#include "base/states.h"
#include "peer/runtime.h"
#include "peer/send.h"
#include "pool/held.h"
#include "pool/pool.h"
#include "pool/pool_state.h"
#include "pool/queue.h"
#include "session/client.h"
#include "session/redo.h"
#include "session/transaction.h"
#include "spooler/spooler.h"

/* Closing. The client's channel.close is answered last: after the replies to what it sent before,
 * what was returned to it, and the end of a message that is on its way to it, once its publishes
 * are safe (SETTLING), and RabbitMQ has closed its own channel if it knows more of it than
 * publishes (CLOSING). RabbitMQ's error, or the proxy's, may come at any moment of that: it is
 * told, the client's close is answered behind it, and the number is free when the client's close-ok
 * is there too (REFUSED). */

static const struct states states = {
    .object = "channel",
    .names = {[CHANNEL_OPEN] = "open",
              [CHANNEL_SETTLING] = "settling",
              [CHANNEL_CLOSING] = "closing",
              [CHANNEL_REFUSING] = "refusing",
              [CHANNEL_REFUSED] = "refused"},
    .next =
        {
            [CHANNEL_OPEN] = TO(CHANNEL_SETTLING) | TO(CHANNEL_REFUSING) | TO(CHANNEL_REFUSED),
            [CHANNEL_SETTLING] = TO(CHANNEL_SETTLING) | TO(CHANNEL_CLOSING) | TO(CHANNEL_REFUSING) |
                                 TO(CHANNEL_REFUSED),
            [CHANNEL_CLOSING] = TO(CHANNEL_SETTLING) | TO(CHANNEL_REFUSING) | TO(CHANNEL_REFUSED),
            [CHANNEL_REFUSING] = TO(CHANNEL_SETTLING) | TO(CHANNEL_REFUSED),
            [CHANNEL_REFUSED] = TO(CHANNEL_SETTLING),
        },
};

static void channel_move(struct channel *ch, enum channel_state to)
{
    STATE_MOVE(&states, ch->state, to);
}

enum { BEHIND_MAX_BYTES = 4096 }; /* then the client waits for the end of the content */

struct pending_close {
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
    return (ch->relay && ch->carrier->owes(ch->relay)) || ch->behind_len > BEHIND_MAX_BYTES;
}

bool channel_awaits_verdict(const struct channel *ch)
{
    const struct relay *r = ch->relay;
    return r && ch->carrier->unconfirmed(r) > 0 && !ch->carrier->is_unread(r) &&
           client_waits(ch->client, ch->client->rt->config->pool.confirm_timeout_ms);
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

void channel_say_acks(struct channel *ch)
{
    if (stream_is_full(&ch->client->stream))
        list_remove(&ch->ack_node); /* until it is writable */
    else
        channel_flush_acks(ch);
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
    if (!ch->tx)
        return;
    transaction_free(ch->tx);
    ch->tx = NULL;
    queue_changed(ch->client->member.pool->queue);
}

static void let_go(struct channel *ch)
{
    cancel_content(ch);
    channel_drop_transaction(ch);
    redo_drop(&ch->redo);
    if (ch->relay)
        ch->carrier->release(ch->relay);
    list_remove(&ch->ack_node);
    ledger_deinit(&ch->ledger);
}

void channel_free(struct channel *ch)
{
    let_go(ch);
    handles_remove(ch->handle);
    client_remove_channel(ch->client, ch->number);
    ch->client->rt->budget.kept -= CHANNEL_KEPT_BYTES;
    content_deinit(&ch->content);
    free(ch->pending_close);
    free(ch->behind);
    free(ch->last_queue.bytes);
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
    return ch->spooling + (ch->relay ? ch->carrier->unconfirmed(ch->relay) : 0);
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
        channel_move(ch, CHANNEL_SETTLING);
    channel_settled(ch);
}

/* The close is answered once all publishes are safe. A channel of which RabbitMQ knows more than
 * publishes (or confirms nothing) is closed there first, so that its close-ok means the same; in an
 * alarm that would be answered when it is over, and is not waited for, unless a commit is. */
static void settle(struct channel *ch)
{
    struct client *client = ch->client;
    struct relay *r = ch->relay;
    bool wait = pool_state_close_waits(client->member.pool),
         unread = r && ch->carrier->is_unread(r);
    bool awaits = r && (unread ? ch->carrier->commits(r) : ch->carrier->awaits(r));
    if (awaits || (wait && channel_unsafe(ch) > 0))
        return;
    if (r && !ch->carrier->carries_publishes_alone(r) && !unread) {
        channel_move(ch, CHANNEL_CLOSING);
        ch->carrier->close(r);
    } else if (!ch->inside_content || client->state != CLIENT_OPEN) {
        finish_close(ch);
    }
}

static void advance_close(struct channel *ch)
{
    if (ch->state == CHANNEL_CLOSING && ch->relay && ch->carrier->is_unread(ch->relay)) {
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

static void refuse_now(struct channel *ch, const struct pending_close *close)
{
    channel_flush_acks(ch);
    let_go(ch);
    wire_send_close_bytes(
        &ch->client->stream, ch->number, close->code,
        (amqp_bytes_t){.len = close->text_len, .bytes = (void *)(uintptr_t)close->text},
        close->cause);
    if (ch->client->state == CLIENT_SETTLING) { /* it waits for connection.close-ok alone */
        channel_move(ch, CHANNEL_SETTLING);
    } else {
        close_move(&ch->close, CLOSE_WE_ASK);
        channel_move(ch, CHANNEL_REFUSED);
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
    struct pending_close close = {.code = code, .cause = cause};
    close.text_len = (uint8_t)(text.len < UINT8_MAX ? text.len : UINT8_MAX);
    memcpy(close.text, text.bytes, close.text_len);
    if (!ch->inside_content || !ch->relay) {
        refuse_now(ch, &close);
        return;
    }
    cancel_content(ch);
    ch->pending_close = malloc(sizeof close);
    ENSURE(ch->pending_close);
    *ch->pending_close = close;
    channel_move(ch, CHANNEL_REFUSING);
}

void channel_refuse(struct channel *ch, uint16_t code, const char *text, amqp_method_number_t cause)
{
    channel_refuse_bytes(ch, code, bytes_of(text), cause);
}

bool channel_awaits_content(const struct channel *ch)
{
    return ch->inside_content &&
           (ch->client->state == CLIENT_OPEN || ch->state == CHANNEL_REFUSING);
}

void channel_content_done(struct channel *ch)
{
    struct client *client = ch->client;
    ch->inside_content = false;
    say_behind(ch);
    channel_flush_acks(ch);
    if (client->member.held)
        held_wake(client->member.pool);
    if (ch->state == CHANNEL_REFUSING)
        refuse_now(ch, ch->pending_close);
    else
        advance_close(ch);
}

void channel_begin_close(struct channel *ch)
{
    if (ch->state == CHANNEL_SETTLING || ch->state == CHANNEL_CLOSING ||
        ch->state == CHANNEL_REFUSING) /* an error is told first */
        return;
    cancel_content(ch);
    channel_drop_transaction(ch); /* not committed: gone, as in RabbitMQ */
    channel_move(ch, CHANNEL_SETTLING);
    advance_close(ch);
}

void channel_settled(struct channel *ch)
{
    advance_close(ch);
}

void channel_open(struct client *client, uint16_t number)
{
    struct channel *ch = calloc(1, sizeof *ch);
    ENSURE(ch);
    ch->client = client;
    ch->number = number;
    ch->handle = handles_add(ch);
    content_init(&ch->content);
    list_init(&ch->ack_node);
    client_add_channel(client, number, ch);
    client->rt->budget.kept += CHANNEL_KEPT_BYTES;
    amqp_channel_open_ok_t ok = {.channel_id = amqp_empty_bytes};
    wire_send(&client->stream, number, AMQP_CHANNEL_OPEN_OK_METHOD, &ok);
}

void channel_set_last_queue(struct channel *ch, const void *name, size_t len)
{
    char *copy = malloc(len + 1); /* there is one, though its name may be empty */
    ENSURE(copy);
    memcpy(copy, name, len);
    free(ch->last_queue.bytes);
    ch->last_queue = (amqp_bytes_t){.len = len, .bytes = copy};
}

void channel_remember_qos(struct channel *ch, const amqp_basic_qos_t *asked)
{
    amqp_basic_qos_t **kept = &ch->qos[asked->global != 0];
    if (!asked->global) { /* it ends what was asked for all of the channel */
        free(ch->qos[1]);
        ch->qos[1] = NULL;
    }
    if (!*kept)
        *kept = malloc(sizeof **kept);
    ENSURE(*kept);
    **kept = *asked;
}

void channel_leave(struct channel *ch)
{
    if (ch->state != CHANNEL_OPEN || ch->confirming || ch->transactional) {
        channel_free(ch);
        return;
    }
    redo_drop(&ch->redo); /* nobody hears of it any more, and what is published would wait for it */
    if (ch->relay)
        ch->carrier->release(ch->relay);
}
