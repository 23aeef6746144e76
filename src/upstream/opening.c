#include "upstream/opening.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/wire.h"
#include "base/assert.h"
#include "base/log.h"
#include "peer/capability.h"
#include "peer/runtime.h"
#include "peer/send.h"
#include "upstream/upstream_end.h"
#include "upstream/upstream_state.h"

enum { DEFAULT_FRAME_MAX = 131072 };

static uint8_t *put_bytes(uint8_t *at, const void *bytes, size_t len)
{
    memcpy(at, bytes, len);
    return at + len;
}

static size_t own_properties(const struct upstream *u, uint8_t *out, size_t capacity)
{
    (void)u;
    amqp_field_value_t yes = {AMQP_FIELD_KIND_BOOLEAN, {.boolean = 1}};
    amqp_table_entry_t capabilities[] = {
        {bytes_of("publisher_confirms"), yes},           {bytes_of("basic.nack"), yes},
        {bytes_of("connection.blocked"), yes},           {bytes_of("consumer_cancel_notify"), yes},
        {bytes_of("authentication_failure_close"), yes},
    };
    amqp_table_t capability_table = {sizeof capabilities / sizeof *capabilities, capabilities};
    amqp_table_entry_t entries[] = {
        {bytes_of("product"), {AMQP_FIELD_KIND_UTF8, {.bytes = bytes_of("amqpbuf")}}},
        {bytes_of("version"), {AMQP_FIELD_KIND_UTF8, {.bytes = bytes_of(AMQPBUF_VERSION)}}},
        {bytes_of("capabilities"), {AMQP_FIELD_KIND_TABLE, {.table = capability_table}}},
    };
    amqp_table_t table = {sizeof entries / sizeof *entries, entries};
    size_t len = 0;
    ENSURE(amqp_encode_table((amqp_bytes_t){capacity, out}, &table, &len) == AMQP_STATUS_OK);
    return len;
}

/* Written by hand because client-properties may be a client's own table, passed on as it came. */
static void send_start_ok(struct upstream *u)
{
    uint8_t own[512] = {0};
    const uint8_t *properties = u->client_properties;
    size_t properties_len = u->client_properties_len;
    if (!properties) {
        properties = own;
        properties_len = own_properties(u, own, sizeof own);
    }
    size_t user_len = strlen(u->user), password_len = strlen(u->password);
    size_t response_len = user_len + password_len + 2;
    size_t payload_len = 4 + properties_len + 1 + 5 + 4 + response_len + 1 + 5;
    uint8_t *frame = malloc(payload_len + FRAME_OVERHEAD_BYTES);
    ENSURE(frame);
    uint8_t *at = frame + FRAME_HEAD_BYTES;
    wire_put32(at, AMQP_CONNECTION_START_OK_METHOD);
    at = put_bytes(at + 4, properties, properties_len);
    at = put_bytes(at, "\5PLAIN", 6);
    wire_put32(at, (uint32_t)response_len);
    at += 4;
    *at++ = 0;
    at = put_bytes(at, u->user, user_len);
    *at++ = 0;
    at = put_bytes(at, u->password, password_len);
    put_bytes(at, "\5en_US", 6);
    size_t size = frame_wrap(frame, FRAME_METHOD, 0, (uint32_t)payload_len);
    stream_write_copy(&u->stream, frame, size);
    memset(frame, 0, size);
    free(frame);
}

void opening_start(struct upstream *u, const struct frame *frame, const amqp_connection_start_t *m)
{
    /* Payload: class, method, version-major, version-minor, then the table with its length. */
    const uint8_t *table = frame->payload + 6;
    u->server_properties_len = 4 + (size_t)wire_get32(table);
    u->server_properties = malloc(u->server_properties_len);
    ENSURE(u->server_properties);
    memcpy(u->server_properties, table, u->server_properties_len);
    u->upstreams->server.major = capability_version(&m->server_properties);
    u->offers_confirms = capability_find(&m->server_properties, "publisher_confirms");
    upstream_move(u, UPSTREAM_TUNE);
    targets_answered(u->target);
    send_start_ok(u);
}

void opening_enter(struct upstream *u)
{
    amqp_connection_tune_ok_t tune_ok = {
        .channel_max = u->links.max,
        .frame_max = u->frame_max,
        .heartbeat = (uint16_t)(u->heartbeat_ms / 1000),
    };
    wire_send(&u->stream, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &tune_ok);
    amqp_connection_open_t open = {.virtual_host = bytes_of(u->vhost)};
    wire_send(&u->stream, 0, AMQP_CONNECTION_OPEN_METHOD, &open);
    upstream_move(u, UPSTREAM_OPENING);
}

void opening_tune(struct upstream *u, const amqp_connection_tune_t *m)
{
    /* A client's own upstream has as many as the client was offered. */
    uint16_t limit = u->client_properties ? UINT16_MAX : u->rt->config->pool.max_channels;
    if (m->frame_max != 0 && m->frame_max < FRAME_MIN_SIZE) {
        upstream_end_with(u, "RabbitMQ's frame_max is below 4096, which no client may use", 0);
        return;
    }
    u->frame_max = m->frame_max ? m->frame_max : DEFAULT_FRAME_MAX;
    u->links.max = m->channel_max && m->channel_max < limit ? m->channel_max : limit;
    uint32_t heartbeat_s = (u->rt->config->upstream.heartbeat_ms + 999) / 1000;
    u->heartbeat_ms = (uint64_t)heartbeat_s * 1000;
    server_remember(&u->upstreams->server, u->server_properties, u->server_properties_len,
                    u->frame_max, m->channel_max);
    upstream_move(u, UPSTREAM_TUNED);
    if (u->vhost)
        opening_enter(u);
    else
        u->events->on_tuned(u);
}

void opening_open_ok(struct upstream *u)
{
    upstream_move(u, UPSTREAM_OPEN);
    u->idle_since_ms = runtime_now(u->rt);
    LOG_OFTEN(LOG_INFO, "upstream_connected", LOG_N("upstream", u->id),
              LOG_T("host", u->target->url->host), LOG_N("port", u->target->url->port),
              LOG_T("user", u->user), LOG_T("vhost", u->vhost));
    u->events->on_open(u);
}
