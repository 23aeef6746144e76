#include "session/client.h"

#include <string.h>

#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/states.h"
#include "peer/runtime.h"
#include "peer/send.h"
#include "pool/held.h"
#include "pool/login.h"
#include "pool/pool.h"

static const struct states states = {
    .object = "client",
    .names = {[CLIENT_HEADER] = "header",
              [CLIENT_START] = "start",
              [CLIENT_PROVING] = "proving",
              [CLIENT_TUNE] = "tune",
              [CLIENT_OPENING] = "opening",
              [CLIENT_LOGIN] = "login",
              [CLIENT_OPEN] = "open",
              [CLIENT_SETTLING] = "settling",
              [CLIENT_LEAVING] = "leaving",
              [CLIENT_REFUSED] = "refused",
              [CLIENT_GARBLED] = "garbled",
              [CLIENT_FINISHED] = "finished",
              [CLIENT_CLOSED] = "closed"},
    .next =
        {
            [CLIENT_HEADER] = TO(CLIENT_START) | TO(CLIENT_CLOSED),
            [CLIENT_START] = TO(CLIENT_PROVING) | TO(CLIENT_REFUSED) | TO(CLIENT_CLOSED),
            [CLIENT_PROVING] = TO(CLIENT_TUNE) | TO(CLIENT_REFUSED) | TO(CLIENT_CLOSED),
            [CLIENT_TUNE] = TO(CLIENT_OPENING) | TO(CLIENT_REFUSED) | TO(CLIENT_CLOSED),
            [CLIENT_OPENING] = TO(CLIENT_LOGIN) | TO(CLIENT_REFUSED) | TO(CLIENT_CLOSED),
            [CLIENT_LOGIN] = TO(CLIENT_OPEN) | TO(CLIENT_REFUSED) | TO(CLIENT_CLOSED),
            [CLIENT_OPEN] =
                TO(CLIENT_SETTLING) | TO(CLIENT_LEAVING) | TO(CLIENT_REFUSED) | TO(CLIENT_CLOSED),
            [CLIENT_SETTLING] = TO(CLIENT_FINISHED) | TO(CLIENT_REFUSED) | TO(CLIENT_CLOSED),
            [CLIENT_LEAVING] = TO(CLIENT_SETTLING) | TO(CLIENT_REFUSED) | TO(CLIENT_CLOSED),
            [CLIENT_REFUSED] = TO(CLIENT_GARBLED) | TO(CLIENT_CLOSED),
            [CLIENT_GARBLED] = TO(CLIENT_CLOSED),
            [CLIENT_FINISHED] = TO(CLIENT_CLOSED),
        },
};

void client_move(struct client *c, enum client_state to)
{
    STATE_MOVE(&states, c->state, to);
}

void clients_init(struct clients *clients, struct logins *logins,
                  const struct client_handler *handler)
{
    struct pools *pools = logins->pools;
    *clients =
        (struct clients){.rt = pools->rt, .pools = pools, .logins = logins, .handler = handler};
    list_init(&clients->all);
    list_init(&clients->acking);
}

/* ---- what the session does about it ---- */

void client_close(struct client *c, const char *reason)
{
    c->clients->handler->on_close(c, reason);
}

void client_refuse(struct client *c, uint16_t code, const char *text, amqp_method_number_t cause)
{
    c->clients->handler->on_refuse(c, code, text, cause);
}

void client_leave(struct client *c, uint16_t code, const char *text, amqp_method_number_t cause)
{
    c->clients->handler->on_leave(c, code, text, cause);
}

void client_settled(struct client *c)
{
    c->clients->handler->on_settled(c);
}

void client_settled_by(uint64_t handle)
{
    struct client *c = handles_get(handle);
    if (c)
        client_settled(c);
}

/* ---- channels ---- */

struct channel *client_channel(struct client *c, uint16_t number)
{
    return number < c->channels_capacity ? c->channels[number] : NULL;
}

void client_add_channel(struct client *c, uint16_t number, struct channel *ch)
{
    if (number >= c->channels_capacity) {
        uint32_t capacity = c->channels_capacity ? c->channels_capacity : 2;
        while (capacity <= number)
            capacity *= 2;
        c->channels = memory_grow(c->channels, capacity, sizeof *c->channels);
        memset(c->channels + c->channels_capacity, 0,
               (capacity - c->channels_capacity) * sizeof(struct channel *));
        c->rt->budget.kept += (capacity - c->channels_capacity) * sizeof(struct channel *);
        c->channels_capacity = capacity;
    }
    c->channels[number] = ch;
    c->channel_count++;
    c->rt->counters.channels++;
}

void client_remove_channel(struct client *c, uint16_t number)
{
    ENSURE(c->channels[number]);
    c->channels[number] = NULL;
    c->channel_count--;
    c->rt->counters.channels--;
}

/* ---- waiting ---- */

void client_hold(struct client *c)
{
    if (c->member.held || !c->member.pool)
        return;
    if (c->held_since_ms == 0)
        c->held_since_ms = runtime_now(c->rt);
    held_wait(&c->member);
    stream_pause(&c->stream);
}

bool client_waits(struct client *c, uint64_t wait_ms)
{
    uint64_t now = runtime_now(c->rt);
    if (c->patience_ms == 0)
        c->patience_ms = now + wait_ms;
    return now < c->patience_ms;
}

struct upstream *client_open_own(const struct client *c)
{
    return c->own && c->own->state >= UPSTREAM_OPEN ? c->own : NULL;
}

/* ---- what it hears, what is known of it ---- */

void client_tell_blocked(struct client *c, bool blocked, const char *reason)
{
    if (!c->can_be_blocked || c->state != CLIENT_OPEN || c->told_blocked == blocked)
        return;
    c->told_blocked = blocked;
    if (!blocked) {
        wire_send_plain(&c->stream, 0, AMQP_CONNECTION_UNBLOCKED_METHOD);
        return;
    }
    amqp_connection_blocked_t m = {.reason = bytes_of(reason)};
    wire_send(&c->stream, 0, AMQP_CONNECTION_BLOCKED_METHOD, &m);
}

void client_tell_alarm(struct client *c, bool blocked)
{
    client_tell_blocked(c, blocked, "RabbitMQ has raised an alarm");
}

void client_set_apart(struct client *c)
{
    if (c->place == CLIENT_APART)
        return;
    c->place = CLIENT_APART;
    LOG_OFTEN(LOG_INFO, "client_apart", LOG_N("client", c->id), LOG_T("peer", c->peer),
              LOG_T("user", c->member.user));
}
