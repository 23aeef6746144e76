#include "drain/returned.h"

#include <stdio.h>
#include <string.h>

#include "amqp/destination.h"
#include "amqp/method.h"
#include "amqp/wire.h"

static void take_name(struct cursor *c, uint8_t *len, uint8_t name[255])
{
    *len = cursor_u8(c);
    const uint8_t *bytes = cursor_take(c, *len);
    if (bytes)
        memcpy(name, bytes, *len);
}

void returned_begin(struct returned *r, const struct frame *frame)
{
    /* Behind class and method: reply code, reply text, exchange, routing key. */
    struct cursor c = {frame->payload + 4, frame->payload + frame->payload_len, false};
    r->code = cursor_u16(&c);
    size_t len = cursor_u8(&c);
    const uint8_t *text = cursor_take(&c, len);
    snprintf(r->text, sizeof r->text, "%.*s", text ? (int)len : 0, text ? (const char *)text : "");
    take_name(&c, &r->exchange_len, r->exchange);
    take_name(&c, &r->routing_key_len, r->routing_key);
    r->active = !c.failed;
}

static bool is_routed_as(const struct returned *r, const struct publish *publish)
{
    return publish->exchange_len == r->exchange_len &&
           memcmp(publish->exchange, r->exchange, r->exchange_len) == 0 &&
           publish->routing_key_len == r->routing_key_len &&
           memcmp(publish->routing_key, r->routing_key, r->routing_key_len) == 0;
}

uint64_t returned_body_size(const struct frame *header)
{
    return header->payload_len >= 12 ? wire_get64(header->payload + 4) : 0;
}

static bool is_sent_so(const struct message *message, const struct frame *header)
{
    return message->header.len == header->payload_len &&
           memcmp(message->header.at, header->payload, header->payload_len) == 0;
}

bool returned_is_message(const struct returned *r, const struct message *message,
                         const struct frame *header, bool as_sent)
{
    struct publish publish;
    return (as_sent ? is_sent_so(message, header)
                    : message->body_size == returned_body_size(header)) &&
           publish_parse(message->method.at, message->method.len, &publish) && publish.mandatory &&
           is_routed_as(r, &publish);
}

bool returned_names(const struct returned *r, const uint8_t *method, size_t method_len)
{
    struct publish publish;
    return publish_parse(method, method_len, &publish) && is_routed_as(r, &publish);
}

uint64_t returned_destination(const struct returned *r)
{
    return destination_of_names(r->exchange, r->exchange_len, r->routing_key, r->routing_key_len);
}
