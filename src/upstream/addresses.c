#include "upstream/addresses.h"

#include <netdb.h>

#include "base/assert.h"
#include "peer/runtime.h"
#include "upstream/upstream_end.h"
#include "upstream/upstream_state.h"

bool addresses_next(struct upstream *u)
{
    if (!u->address->ai_next)
        return false;
    u->address = u->address->ai_next;
    upstream_move(u, UPSTREAM_CONNECTING);
    stream_close(&u->stream); /* a socket serves one try; the next begins once it is closed */
    return true;
}

static void address_failed(struct upstream *u, int status)
{
    if (!addresses_next(u))
        upstream_end_with(u, "connect", status);
}

void addresses_connected(struct upstream *u, int status)
{
    if (u->state != UPSTREAM_CONNECTING)
        return;
    if (status < 0) {
        address_failed(u, status);
        return;
    }
    upstream_move(u, UPSTREAM_START);
    stream_write_copy(&u->stream, "AMQP\0\0\x09\x01", 8);
}

void addresses_connect(struct upstream *u)
{
    uint64_t now = runtime_now(u->rt), left = 0;
    for (const struct addrinfo *a = u->address; a; a = a->ai_next)
        left++;
    ENSURE(left > 0);
    uint64_t remaining = u->deadline_ms > now ? u->deadline_ms - now : 0;
    u->address_deadline_ms = now + remaining / left;
    if (!u->stream.net)
        stream_init(&u->stream, &u->rt->net, u->stream.handler);
    if (u->target->url->tls)
        stream_use_tls(&u->stream, u->upstreams->tls, u->target->url->host);
    int status = stream_connect(&u->stream, u->address->ai_addr);
    if (status < 0)
        address_failed(u, status);
}

void addresses_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *addresses)
{
    struct upstream *u = request->data;
    request->data = NULL;
    if (u->state == UPSTREAM_CLOSED) {
        uv_freeaddrinfo(addresses);
        upstream_free_if_gone(u);
        return;
    }
    if (status < 0) {
        uv_freeaddrinfo(addresses);
        upstream_end_with(u, "resolve", status);
        return;
    }
    u->addresses = u->address = addresses;
    if (!u->user) {
        u->events->on_tuned(u);
        return;
    }
    upstream_move(u, UPSTREAM_CONNECTING);
    addresses_connect(u);
}
