#include "json/routing.h"

static struct name named(amqp_bytes_t bytes)
{
    return (struct name){.present = true, .bytes = bytes.bytes, .len = bytes.len};
}

static bool decode_publish(struct routing *routing, const struct reader_record *record)
{
    struct publish publish;
    if (method_number(record->method, record->method_len) != AMQP_BASIC_PUBLISH_METHOD ||
        !publish_parse(record->method, record->method_len, &publish))
        return false;
    *routing = (struct routing){
        .number = AMQP_BASIC_PUBLISH_METHOD,
        .exchange = {true, publish.exchange, publish.exchange_len},
        .routing_key = {true, publish.routing_key, publish.routing_key_len},
        .mandatory = publish.mandatory,
        .immediate = publish.immediate,
    };
    return true;
}

static bool decode_declaration(struct routing *routing, const struct reader_record *record,
                               struct method_arena *arena)
{
    void *decoded;
    *routing = (struct routing){0};
    if (!method_decode(arena, record->method, record->method_len, &routing->number, &decoded))
        return false;
    routing->decoded = decoded;
    if (routing->number == AMQP_EXCHANGE_DECLARE_METHOD) {
        const amqp_exchange_declare_t *method = decoded;
        routing->exchange = routing->declared = named(method->exchange);
        return true;
    }
    if (routing->number == AMQP_QUEUE_DECLARE_METHOD) {
        const amqp_queue_declare_t *method = decoded;
        routing->declared = named(method->queue);
        return true;
    }
    if (routing->number == AMQP_QUEUE_BIND_METHOD) {
        const amqp_queue_bind_t *method = decoded;
        routing->exchange = named(method->exchange);
        routing->routing_key = named(method->routing_key);
        routing->declared = named(method->queue);
        return true;
    }
    if (routing->number == AMQP_EXCHANGE_BIND_METHOD) {
        const amqp_exchange_bind_t *method = decoded;
        routing->exchange = named(method->source);
        routing->routing_key = named(method->routing_key);
        routing->declared = named(method->destination);
        return true;
    }
    return false;
}

bool routing_decode(struct routing *routing, const struct reader_record *record,
                    struct method_arena *arena)
{
    return record->kind == RECORD_PUBLISH ? decode_publish(routing, record)
                                          : decode_declaration(routing, record, arena);
}
