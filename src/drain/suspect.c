#include "drain/suspect.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "amqp/method.h"
#include "amqp/properties.h"
#include "amqp/wire.h"

enum { HEADER_FLAGS_AT = 12, HEADER_FLAG_USER_ID = 1 << 4 }; /* AMQP 0-9-1, 2.3.5.2 and 1.8.3.12 */

/* Never 0, which stands for nothing. */
static uint64_t hash(const void *bytes, size_t len)
{
    uint64_t h = XXH3_64bits(bytes, len);
    return h ? h : 1;
}

static uint64_t user_id_of(const uint8_t *header, size_t header_len)
{
    struct properties properties;
    if (header_len < HEADER_FLAGS_AT + 2 ||
        !(wire_get16(header + HEADER_FLAGS_AT) & HEADER_FLAG_USER_ID) ||
        !properties_decode(&properties, header, header_len))
        return 0;
    uint64_t h = hash(properties.fields.user_id.bytes, properties.fields.user_id.len);
    properties_deinit(&properties);
    return h;
}

void trace_publish(struct trace *trace, const uint8_t *method, size_t method_len,
                   const uint8_t *header, size_t header_len)
{
    struct publish publish;
    *trace = (struct trace){0};
    if (!publish_parse(method, method_len, &publish) || header_len < HEADER_FLAGS_AT)
        return;
    trace->exchange = hash(publish.exchange, publish.exchange_len);
    trace->routing_key = hash(publish.routing_key, publish.routing_key_len);
    trace->user_id = user_id_of(header, header_len);
    trace->body_size = wire_get64(header + 4);
}

/* What stands between `before` and `behind`; NULL if the text has no such place. */
static const char *between(const char *text, const char *before, const char *behind, size_t *len)
{
    const char *at = strstr(text, before);
    if (!at)
        return NULL;
    at += strlen(before);
    const char *end = strstr(at, behind);
    if (!end)
        return NULL;
    *len = (size_t)(end - at);
    return at;
}

/* The exchange takes other keys, and another exchange takes this one. */
static bool read_topic(const char *text, struct accusation *accusation)
{
    size_t key_len, len;
    const char *key = between(text, "access to topic '", "' in exchange ", &key_len);
    const char *name = key ? between(key + key_len, "exchange '", "' in vhost", &len) : NULL;
    if (!name)
        return false;
    *accusation = (struct accusation){ACCUSED_TOPIC, hash(key, key_len), hash(name, len)};
    return true;
}

struct accusation accusation_read(const char *text)
{
    size_t len;
    struct accusation topic;
    if (read_topic(text, &topic))
        return topic;
    const char *name = between(text, "user_id property set to '", "' but authenticated", &len);
    if (name)
        return (struct accusation){.what = ACCUSED_USER_ID, .value = hash(name, len)};
    name = between(text, "exchange '", "' in vhost", &len);
    if (name)
        return (struct accusation){.what = ACCUSED_EXCHANGE, .value = hash(name, len)};
    name = between(text, "message size ", " ", &len);
    if (name)
        return (struct accusation){.what = ACCUSED_SIZE, .value = strtoull(name, NULL, 10)};
    return (struct accusation){.what = ACCUSED_UNKNOWN};
}

bool accusation_fits(const struct accusation *accusation, const struct trace *trace)
{
    switch (accusation->what) {
    case ACCUSED_EXCHANGE:
        return trace->exchange == accusation->value;
    case ACCUSED_TOPIC:
        return trace->routing_key == accusation->value && trace->exchange == accusation->exchange;
    case ACCUSED_USER_ID:
        return trace->user_id == accusation->value;
    case ACCUSED_SIZE:
        return trace->body_size == accusation->value;
    case ACCUSED_UNKNOWN:
        break;
    }
    return false;
}
