#include "amqp/properties.h"

#include "amqp/content.h"

enum {
    POOL_PAGE_BYTES = 4096,
    FLAGS_AT = 12, /* behind class, weight and body size */
};

bool properties_decode(struct properties *properties, const uint8_t *header, size_t len)
{
    /* librabbitmq accepts bytes left over, and follows nested tables as deep as they go. */
    if (header_check(header, len, &properties->body_size) != CONTENT_MORE)
        return false;
    init_amqp_pool(&properties->pool, POOL_PAGE_BYTES);
    /* librabbitmq's type is not const; nothing writes through it. */
    amqp_bytes_t encoded = {.len = len - FLAGS_AT, .bytes = (void *)(uintptr_t)(header + FLAGS_AT)};
    void *decoded;
    if (amqp_decode_properties(AMQP_BASIC_CLASS, &properties->pool, encoded, &decoded) !=
        AMQP_STATUS_OK) {
        empty_amqp_pool(&properties->pool);
        return false;
    }
    properties->fields = *(const amqp_basic_properties_t *)decoded;
    return true;
}

void properties_deinit(struct properties *properties)
{
    empty_amqp_pool(&properties->pool);
}

static amqp_field_value_t text(amqp_bytes_t bytes)
{
    return (amqp_field_value_t){.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = bytes};
}

static amqp_field_value_t octet(uint8_t value)
{
    return (amqp_field_value_t){.kind = AMQP_FIELD_KIND_U8, .value.u8 = value};
}

void properties_each(const struct properties *properties, property_visit visit, void *arg)
{
    const amqp_basic_properties_t *f = &properties->fields;
    const struct {
        amqp_flags_t flag;
        const char *name;
        amqp_field_value_t value;
    } all[] = {
        {AMQP_BASIC_CONTENT_TYPE_FLAG, "content_type", text(f->content_type)},
        {AMQP_BASIC_CONTENT_ENCODING_FLAG, "content_encoding", text(f->content_encoding)},
        {AMQP_BASIC_HEADERS_FLAG,
         "headers",
         {.kind = AMQP_FIELD_KIND_TABLE, .value.table = f->headers}},
        {AMQP_BASIC_DELIVERY_MODE_FLAG, "delivery_mode", octet(f->delivery_mode)},
        {AMQP_BASIC_PRIORITY_FLAG, "priority", octet(f->priority)},
        {AMQP_BASIC_CORRELATION_ID_FLAG, "correlation_id", text(f->correlation_id)},
        {AMQP_BASIC_REPLY_TO_FLAG, "reply_to", text(f->reply_to)},
        {AMQP_BASIC_EXPIRATION_FLAG, "expiration", text(f->expiration)},
        {AMQP_BASIC_MESSAGE_ID_FLAG, "message_id", text(f->message_id)},
        {AMQP_BASIC_TIMESTAMP_FLAG,
         "timestamp",
         {.kind = AMQP_FIELD_KIND_TIMESTAMP, .value.u64 = f->timestamp}},
        {AMQP_BASIC_TYPE_FLAG, "type", text(f->type)},
        {AMQP_BASIC_USER_ID_FLAG, "user_id", text(f->user_id)},
        {AMQP_BASIC_APP_ID_FLAG, "app_id", text(f->app_id)},
        {AMQP_BASIC_CLUSTER_ID_FLAG, "cluster_id", text(f->cluster_id)},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (f->_flags & all[i].flag)
            visit(arg, all[i].name, &all[i].value);
    }
}

bool property_integer(const amqp_field_value_t *value, int64_t *integer)
{
    switch (value->kind) {
    case AMQP_FIELD_KIND_I8:
        *integer = value->value.i8;
        return true;
    case AMQP_FIELD_KIND_U8:
        *integer = value->value.u8;
        return true;
    case AMQP_FIELD_KIND_I16:
        *integer = value->value.i16;
        return true;
    case AMQP_FIELD_KIND_U16:
        *integer = value->value.u16;
        return true;
    case AMQP_FIELD_KIND_I32:
        *integer = value->value.i32;
        return true;
    case AMQP_FIELD_KIND_U32:
        *integer = value->value.u32;
        return true;
    case AMQP_FIELD_KIND_I64:
    case AMQP_FIELD_KIND_U64:
        *integer = value->value.i64;
        return true;
    default:
        return false;
    }
}
