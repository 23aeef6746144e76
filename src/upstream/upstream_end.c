#include "upstream/upstream_end.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "peer/runtime.h"
#include "peer/send.h"
#include "upstream/upstream_state.h"

void upstream_free_if_gone(struct upstream *u)
{
    if (u->state != UPSTREAM_CLOSED || u->resolve.data || u->stream.net)
        return;
    list_remove(&u->node);
    uv_freeaddrinfo(u->addresses);
    free(u->user);
    free(u->vhost);
    free(u->password);
    free(u->client_properties);
    free(u->server_properties);
    under_way_deinit(&u->under_way);
    links_deinit(&u->links);
    free(u);
}

void upstream_abandon(struct upstream *u)
{
    if (u->state != UPSTREAM_CLOSED)
        upstream_move(u, UPSTREAM_CLOSED);
    u->events = NULL;
    if (u->resolve.data)
        uv_cancel((uv_req_t *)&u->resolve);
    stream_close(&u->stream);
}

void upstream_end_leaving(struct upstream *u)
{
    if (u->events)
        u->events->on_left(u);
    upstream_abandon(u);
}

void upstream_lose_links(struct upstream *u)
{
    struct link *link;
    for (uint32_t at = 0; (link = links_next(&u->links, &at)) != NULL;) {
        link->handler->on_lost(link);
        ENSURE(!links_find(&u->links, (uint16_t)(at - 1)));
    }
}

/* Another code than 320, and a refusal, is about this connection; the broker itself is well. */
static bool target_has_failed(const struct upstream *u, const struct upstream_end *end)
{
    if (u->state == UPSTREAM_OPEN)
        return end->code == 0 || end->code == 320;
    /* Who does not say where to go is sent away in the end. */
    return end->refusal == REFUSAL_NONE && u->state != UPSTREAM_TUNED;
}

/* A login that RabbitMQ refuses is told where that is decided (login_refused). */
static bool is_news(struct upstream *u, const struct upstream_end *end)
{
    return end->refusal != REFUSAL_LOGIN && u->state != UPSTREAM_TUNED &&
           targets_is_news(u->target, end->text, runtime_now(u->rt));
}

#define FIELDS(u, end)                                                                             \
    LOG_N("upstream", (u)->id), LOG_T("host", (u)->target->url->host),                             \
        LOG_N("port", (u)->target->url->port), LOG_T("user", (u)->user),                           \
        LOG_T("vhost", (u)->vhost), LOG_N("code", (end)->code), LOG_T("reason", (end)->text)

static void log_end(struct upstream *u, const struct upstream_end *end)
{
    if (u->state == UPSTREAM_OPEN)
        LOG_OFTEN(LOG_WARN, "upstream_lost", FIELDS(u, end));
    else if (is_news(u, end))
        LOG_OFTEN(LOG_WARN, "upstream_failed", FIELDS(u, end));
    else
        LOG(LOG_DEBUG, "upstream_failed", FIELDS(u, end));
}

void upstream_end(struct upstream *u, const struct upstream_end *end)
{
    const struct upstream_events *events = u->events;
    bool was_open = u->state == UPSTREAM_OPEN;
    if (u->state == UPSTREAM_CLOSED)
        return;
    if (u->state == UPSTREAM_LEAVING || !events) {
        upstream_lose_links(u);
        upstream_end_leaving(u);
        return;
    }
    if (target_has_failed(u, end)) {
        targets_failed(&u->upstreams->targets, u->target);
        if (!was_open)
            targets_unanswered(u->target, runtime_now(u->rt));
    }
    log_end(u, end);
    upstream_move(u, UPSTREAM_CLOSED);
    u->end = *end;
    list_remove(&u->owner_node);
    if (was_open) {
        events->on_lost(u, end);
        upstream_lose_links(u);
    } else {
        events->on_failed(u, end);
    }
    upstream_abandon(u);
}

void upstream_end_with(struct upstream *u, const char *what, int uv_status)
{
    struct upstream_end end = {0};
    if (uv_status)
        snprintf(end.text, sizeof end.text, "%s: %s", what, uv_strerror(uv_status));
    else
        snprintf(end.text, sizeof end.text, "%s", what);
    upstream_end(u, &end);
}

/* Before open-ok 403 is the login, 530 the vhost; but a limit of connections that is reached (of
 * the vhost, the user, the node) is a 530 too, told by its text alone (rabbit_reader). */
static enum upstream_refusal refusal_of(uint16_t code, const char *text)
{
    if (code != 403 && code != 530)
        return REFUSAL_NONE;
    return code == 530 && strstr(text, " limit (") ? REFUSAL_LIMIT : REFUSAL_LOGIN;
}

void upstream_end_by_peer(struct upstream *u, const amqp_connection_close_t *m)
{
    struct upstream_end end = {
        .code = m->reply_code,
        .cause = (amqp_method_number_t)m->class_id << 16 | m->method_id,
    };
    snprintf(end.text, sizeof end.text, "%.*s", (int)m->reply_text.len,
             (const char *)m->reply_text.bytes);
    /* RabbitMQ names no method when a user has too many channels. */
    if (end.code == 530 && strstr(end.text, "number of channels opened"))
        end.cause = AMQP_CHANNEL_OPEN_METHOD;
    if (u->state != UPSTREAM_OPEN)
        end.refusal = refusal_of(end.code, end.text);
    wire_send_plain(&u->stream, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
    stream_flush(&u->stream);
    upstream_end(u, &end);
}

static size_t login_len(const struct upstream *u)
{
    return strlen(u->user) + strlen(u->password) + u->client_properties_len;
}

/* RabbitMQ before 4.1, or as it is configured, takes 4096 bytes before the connection is tuned, and
 * closes without a word over more. That is no outage. */
static void refuse_long_login(struct upstream *u)
{
    struct upstream_end end = {
        .refusal = REFUSAL_LOGIN, .code = 403, .cause = AMQP_CONNECTION_START_OK_METHOD};
    snprintf(end.text, sizeof end.text,
             "ACCESS_REFUSED - RabbitMQ closed the connection over a login of %zu bytes (see its "
             "initial_frame_max)",
             login_len(u));
    upstream_end(u, &end);
}

void upstream_end_without_word(struct upstream *u, int uv_status)
{
    char text[224] = "RabbitMQ closed the connection";
    if (u->state == UPSTREAM_TUNE && login_len(u) > FRAME_MIN_SIZE) {
        refuse_long_login(u);
        return;
    }
    if (uv_status != 0)
        snprintf(text, sizeof text, "connection: %s", stream_why(&u->stream, uv_status));
    upstream_end_with(u, text, 0);
}
