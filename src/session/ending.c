#include "session/ending.h"

#include <string.h>

#include "base/log.h"
#include "peer/runtime.h"
#include "peer/send.h"
#include "pool/admission.h"
#include "pool/held.h"
#include "pool/login.h"
#include "pool/pool.h"
#include "pool/pool_state.h"
#include "pool/queue.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/own_upstream.h"

/* The client asks (ending_begin): its close is answered last, when all that it has published is
 * safe. Or it is told: at once (ending_refuse), or with time for what it still publishes
 * (ending_leave). Both ends may come at once. */

enum { CLOSE_TIMEOUT_MS = 5000 };

static void release_upstreams(struct client *c)
{
    for (uint32_t i = 0; i < c->channels_capacity; i++)
        if (c->channels[i])
            channel_free(c->channels[i]);
    own_upstream_release(c);
}

static void leave_pool(struct client *c)
{
    login_leave(&c->member);
    held_let_go(&c->member);
    if (!c->member.pool)
        return;
    release_upstreams(c);
    admission_leave(&c->member);
}

void ending_close(struct client *c, const char *reason)
{
    if (c->state == CLIENT_CLOSED)
        return;
    LOG(LOG_DEBUG, "client_closed", LOG_N("client", c->id), LOG_T("peer", c->peer),
        LOG_T("user", c->member.user), LOG_T("reason", reason));
    leave_pool(c);
    client_move(c, CLIENT_CLOSED);
    stream_close(&c->stream);
}

static void answer_close(struct client *c)
{
    if (close_move(&c->close, CLOSE_WE_ANSWER))
        wire_send_plain(&c->stream, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
}

/* Once: who was told to leave is told nothing more. */
static void say_close(struct client *c, uint16_t code, const char *text, amqp_method_number_t cause)
{
    if (!close_move(&c->close, CLOSE_WE_ASK))
        return;
    LOG_OFTEN(LOG_INFO, "client_refused", LOG_N("client", c->id), LOG_T("peer", c->peer),
              LOG_T("user", c->member.user), LOG_N("code", code), LOG_T("reason", text));
    for (uint32_t i = 0; i < c->channels_capacity; i++)
        if (c->channels[i])
            channel_flush_acks(c->channels[i]);
    wire_send_close(&c->stream, 0, code, text, cause);
    c->deadline_ms = runtime_now(c->rt) + CLOSE_TIMEOUT_MS;
}

void ending_refuse(struct client *c, uint16_t code, const char *text, amqp_method_number_t cause)
{
    if (c->state >= CLIENT_REFUSED)
        return;
    say_close(c, code, text, cause);
    leave_pool(c);
    answer_close(c); /* if it crosses */
    client_move(c, CLIENT_REFUSED);
    stream_resume(&c->stream);
}

/* Its input is looked at before the loop polls, whatever it was held or paused for. */
static void look_again(struct client *c)
{
    if (c->processing)
        return;
    client_hold(c);
    held_wake(c->member.pool);
}

void ending_leave(struct client *c, uint16_t code, const char *text, amqp_method_number_t cause)
{
    if (c->state == CLIENT_LEAVING) {
        look_again(c);
        return;
    }
    if (c->state != CLIENT_OPEN || !runtime_buffers(c->rt) || !c->member.pool->queue->backlog.id) {
        ending_refuse(c, code, text, cause);
        return;
    }
    say_close(c, code, text, cause);
    client_move(c, CLIENT_LEAVING);
    for (uint32_t i = 0; i < c->channels_capacity; i++)
        if (c->channels[i])
            channel_leave(c->channels[i]);
    own_upstream_release(c);
    look_again(c);
}

static void finish_close(struct client *c)
{
    leave_pool(c);
    answer_close(c);
    client_move(c, CLIENT_FINISHED);
    c->deadline_ms = runtime_now(c->rt) + CLOSE_TIMEOUT_MS;
}

/* An upstream of its own goes first: what the connection owned at RabbitMQ (exclusive queues) is
 * gone once close-ok is there. Orphaned channels of it are left to their confirms. */
void ending_settled(struct client *c)
{
    if (c->state != CLIENT_SETTLING || c->channel_count > 0 ||
        (c->retained + c->appending > 0 && pool_state_close_waits(c->member.pool)))
        return;
    struct upstream *own = client_open_own(c);
    if (!own || own->links.count > 0 || upstream_is_unread(own))
        finish_close(c);
    else if (own->state == UPSTREAM_OPEN)
        upstream_leave(own);
}

void ending_begin(struct client *c)
{
    close_move(&c->close, CLOSE_THEY_ASK);
    client_move(c, CLIENT_SETTLING);
    for (uint32_t i = 0; i < c->channels_capacity; i++) {
        struct channel *ch = c->channels[i];
        if (ch)
            channel_begin_close(ch);
        if (c->state != CLIENT_SETTLING)
            return;
    }
    ending_settled(c);
}

/* An answer that came before the question was sent must not hide it. */
static void end_refused(struct client *c)
{
    stream_flush(&c->stream);
    ending_close(c, "refused, and it has answered");
}

/* Closing: only the end of the conversation matters (1.4.2.3: everything else is discarded). */
void ending_frame(struct client *c, const struct frame *frame)
{
    if (frame->type != FRAME_METHOD || frame->channel != 0 || c->state != CLIENT_REFUSED)
        return;
    amqp_method_number_t method = method_number(frame->payload, frame->payload_len);
    if (method == AMQP_CONNECTION_CLOSE_METHOD && close_move(&c->close, CLOSE_THEY_ASK))
        answer_close(c);
    if (method == AMQP_CONNECTION_CLOSE_OK_METHOD && close_move(&c->close, CLOSE_THEY_ANSWER))
        end_refused(c);
}

/* Its connection.close-ok is all that is looked for. A client whose bytes were left unread would
 * find a reset in place of the error. */
void ending_garbled(struct client *c)
{
    static const uint8_t close_ok[] = {FRAME_METHOD, 0, 0, 0, 0, 0, 4, 0, 10, 0, 51, FRAME_END};
    size_t len, keep = sizeof close_ok - 1;
    uint8_t *data = stream_input(&c->stream, &len);
    if (len > 0 && memmem(data, len, close_ok, sizeof close_ok))
        end_refused(c);
    else if (len > keep)
        stream_consume(&c->stream, len - keep);
}
