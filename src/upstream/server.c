#include "upstream/server.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/method.h"
#include "base/assert.h"

static amqp_table_entry_t flag(const char *name)
{
    return (amqp_table_entry_t){bytes_of(name), {AMQP_FIELD_KIND_BOOLEAN, {.boolean = 1}}};
}

static amqp_table_entry_t text(const char *name, const char *value)
{
    return (amqp_table_entry_t){bytes_of(name), {AMQP_FIELD_KIND_UTF8, {.bytes = bytes_of(value)}}};
}

void server_init(struct server *server)
{
    *server = (struct server){.frame_max = 131072, .channel_max = 2047};
    amqp_table_entry_t capabilities[] = {
        flag("publisher_confirms"),
        flag("exchange_exchange_bindings"),
        flag("basic.nack"),
        flag("consumer_cancel_notify"),
        flag("connection.blocked"),
        flag("consumer_priorities"),
        flag("authentication_failure_close"),
        flag("per_consumer_qos"),
        flag("direct_reply_to"),
    };
    amqp_table_t capability_table = {sizeof capabilities / sizeof *capabilities, capabilities};
    amqp_table_entry_t entries[] = {
        {bytes_of("capabilities"), {AMQP_FIELD_KIND_TABLE, {.table = capability_table}}},
        text("product", "RabbitMQ"),
        /* Some libraries fail without one (Celery); RabbitMQ's own is remembered once there. */
        text("version", "3.8.0"),
        text("platform", "amqpbuf " AMQPBUF_VERSION),
    };
    amqp_table_t table = {sizeof entries / sizeof *entries, entries};
    uint8_t wire[1024] = {0};
    size_t len = 0;
    ENSURE(amqp_encode_table((amqp_bytes_t){sizeof wire, wire}, &table, &len) == AMQP_STATUS_OK);
    server_remember(server, wire, len, server->frame_max, server->channel_max);
}

void server_deinit(struct server *server)
{
    free(server->properties);
}

void server_remember(struct server *server, const uint8_t *properties, size_t len,
                     uint32_t frame_max, uint16_t channel_max)
{
    uint8_t *copy = malloc(len);
    ENSURE(copy);
    memcpy(copy, properties, len);
    free(server->properties);
    server->properties = copy;
    server->properties_len = len;
    server->frame_max = frame_max;
    server->channel_max = channel_max;
}
