#include "session/input.h"

#include <stdio.h>
#include <string.h>

#include "amqp/method.h"
#include "peer/close_handshake.h"
#include "peer/runtime.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/method_router.h"
#include "session/refusal.h"
#include "session/router.h"

/* Happy path: a method goes to the router; the frames of a publish are collected, and it goes there
 * when it is complete. What breaks the protocol is refused here, as RabbitMQ would. */

/* confirm.select is the proxy's own affair: publishes are confirmed upstream anyway. But RabbitMQ
 * closes the channel over one that is wrong before it looks at what is behind it. Who asks for them
 * again hears of each anyway. */
static bool select_confirms(struct channel *ch, const struct frame *frame)
{
    if (channel_is_owed(ch) || (!ch->confirming && channel_awaits_verdict(ch))) {
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

/* True if the publish that is refused goes on all the same, to be dropped or nacked: its client was
 * told to leave. */
static bool say_of_publish(struct channel *ch, const struct refusal *why)
{
    struct client *client = ch->client;
    uint16_t number = ch->number;
    refusal_say(why, ch);
    if (why->whom != REFUSED_LEAVING || client->state != CLIENT_LEAVING ||
        client_channel(client, number) != ch)
        return false;
    ch->rejecting = true;
    return true;
}

static bool begin_publish(struct channel *ch, struct slab *slab, const struct frame *frame)
{
    struct publish publish;
    if (!publish_parse(frame->payload, frame->payload_len, &publish)) {
        client_refuse(ch->client, 501, "FRAME_ERROR - cannot decode basic.publish",
                      AMQP_BASIC_PUBLISH_METHOD);
        return true;
    }
    struct refusal why;
    switch (router_begin_publish(ch, &publish, &why)) {
    case ROUTE_HELD:
        client_hold(ch->client);
        return false;
    case ROUTE_REFUSED:
        if (!say_of_publish(ch, &why))
            return true;
        break;
    case ROUTE_DONE:
        break;
    }
    content_begin(&ch->content, slab, frame);
    return true;
}

/* Another frame stands where the content of this method goes on; 0: where no content belongs. */
static void unexpected_frame(struct channel *ch, enum content_state expected,
                             amqp_method_number_t method)
{
    static const char *const texts[] = {
        [CONTENT_IDLE] = "UNEXPECTED_FRAME - expected method frame, got non method frame instead",
        [CONTENT_HEADER] = ("UNEXPECTED_FRAME - expected content header for class 60, "
                            "got non content header frame instead"),
        [CONTENT_BODY] =
            "UNEXPECTED_FRAME - expected content body, got non content body frame instead",
    };
    client_refuse(ch->client, 505, texts[expected], method);
}

static amqp_method_number_t content_method(const struct content *content)
{
    const struct span *method = &content->message.method;
    return content->state == CONTENT_IDLE ? 0 : method_number(method->at, method->len);
}

static void second_open(struct channel *ch)
{
    client_refuse(ch->client, 504, "CHANNEL_ERROR - second 'channel.open' seen",
                  AMQP_CHANNEL_OPEN_METHOD);
}

static void refuse_unknown(struct channel *ch, amqp_method_number_t method)
{
    if (strcmp(method_name(method), "?") != 0) {
        client_refuse(ch->client, 503, "COMMAND_INVALID - unimplemented method", method);
        return;
    }
    char text[128];
    snprintf(text, sizeof text, "NOT_IMPLEMENTED - unknown method %u.%u", method >> 16,
             method & 0xFFFF);
    client_refuse(ch->client, 540, text, method);
}

static bool take_method(struct channel *ch, struct slab *slab, const struct frame *frame)
{
    amqp_method_number_t method = method_number(frame->payload, frame->payload_len);
    if (ch->content.state != CONTENT_IDLE) {
        unexpected_frame(ch, ch->content.state, content_method(&ch->content));
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
        refuse_unknown(ch, method);
        return true;
    case AMQP_CHANNEL_OPEN_METHOD:
        second_open(ch);
        return true;
    case AMQP_CONFIRM_SELECT_METHOD:
        return select_confirms(ch, frame);
    default:
        break;
    }
    if (method_carries_content(method)) { /* RabbitMQ's own, and it looks at the content first */
        content_begin(&ch->content, slab, frame);
        return true;
    }
    if (!method_known(method)) {
        refuse_unknown(ch, method);
        return true;
    }
    struct refusal why;
    switch (method_router_take(ch, slab, frame, method, &why)) {
    case ROUTE_HELD:
        client_hold(ch->client);
        return false;
    case ROUTE_REFUSED:
        refusal_say(&why, ch);
        break;
    case ROUTE_DONE:
        break;
    }
    return true;
}

bool input_retry(struct channel *ch)
{
    struct refusal why;
    switch (router_publish(ch, &why)) {
    case ROUTE_HELD:
        ch->client->ready = ch;
        client_hold(ch->client);
        return false;
    case ROUTE_REFUSED:
        if (say_of_publish(ch, &why))
            router_publish(ch, &why);
        break;
    case ROUTE_DONE:
        if (runtime_buffers(ch->client->rt)) /* it may have waited for a place */
            client_tell_blocked(ch->client, false, NULL);
        break;
    }
    return true;
}

static void refuse_content(struct channel *ch, enum content_result result,
                           enum content_state expected, amqp_method_number_t method)
{
    struct client *client = ch->client;
    switch (result) {
    case CONTENT_UNEXPECTED_FRAME:
    case CONTENT_BODY_TOO_LONG:
        unexpected_frame(ch, expected, method);
        break;
    case CONTENT_WRONG_CLASS:
        client_refuse(client, 505, "UNEXPECTED_FRAME - expected content header for class 60",
                      method);
        break;
    case CONTENT_MALFORMED:
        client_refuse(client, 502, "SYNTAX_ERROR - malformed message properties", method);
        break;
    case CONTENT_TOO_LARGE:
        channel_refuse(ch, 406, "PRECONDITION_FAILED - message larger than spool.max_message_size",
                       method);
        break;
    default:
        client_refuse(client, 506, "RESOURCE_ERROR - out of memory for this message", method);
    }
}

static bool take_content(struct channel *ch, struct slab *slab, const struct frame *frame)
{
    uint64_t max = ch->client->rt->config->spool.max_message_size_bytes;
    enum content_state expected = ch->content.state;
    amqp_method_number_t method = content_method(&ch->content);
    enum content_result result = content_feed(&ch->content, slab, frame, max);
    if (result == CONTENT_COMPLETE && method != AMQP_BASIC_PUBLISH_METHOD) {
        message_clear(&ch->content.message);
        refuse_unknown(ch, method);
    } else if (result == CONTENT_COMPLETE) {
        /* Held or not, the frame is taken: a publish that has to wait is kept whole. */
        input_retry(ch);
    } else if (result != CONTENT_MORE) {
        refuse_content(ch, result, expected, method);
    }
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
        channel_settled(ch);
}

bool input_frame(struct channel *ch, struct slab *slab, const struct frame *frame)
{
    if (ch->state != CHANNEL_OPEN) {
        closing_frame(ch, frame);
        return true;
    }
    return frame->type == FRAME_METHOD ? take_method(ch, slab, frame)
                                       : take_content(ch, slab, frame);
}

bool input_leaving_frame(struct channel *ch, struct slab *slab, const struct frame *frame)
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
