#include "upstream/shareable.h"

#include <string.h>

#include "amqp/rules.h"

static bool is_one_of(amqp_bytes_t text, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (text.len == strlen(words[i]) && memcmp(text.bytes, words[i], text.len) == 0)
            return true;
    return false;
}

#define IS_ONE_OF(text, words) is_one_of(text, words, sizeof(words) / sizeof *(words))

/* RabbitMQ makes a process identifier of what follows: 541 if it is none. */
static const char reply_name[] = "amq.rabbitmq.reply-to";

static bool is_reply_name(amqp_bytes_t name)
{
    return name.len >= sizeof reply_name - 1 &&
           memcmp(name.bytes, reply_name, sizeof reply_name - 1) == 0;
}

static bool is_text(const amqp_field_value_t *value, const char *const *allowed, size_t count)
{
    return value->kind == AMQP_FIELD_KIND_UTF8 &&
           (count == 0 || is_one_of(value->value.bytes, allowed, count));
}

static bool is_number(const amqp_field_value_t *value)
{
    switch (value->kind) {
    case AMQP_FIELD_KIND_I8:
    case AMQP_FIELD_KIND_U8:
    case AMQP_FIELD_KIND_I16:
    case AMQP_FIELD_KIND_U16:
    case AMQP_FIELD_KIND_I32:
    case AMQP_FIELD_KIND_U32:
    case AMQP_FIELD_KIND_I64:
    case AMQP_FIELD_KIND_U64:
        return true;
    default:
        return false;
    }
}

/* Arguments that RabbitMQ checks, and refuses on the channel. Others mean what a plugin or a later
 * version makes of them: x-queue-master-locator and those of streams are looked at too late, in a
 * process whose end takes the connection with it. */
static bool is_harmless(const amqp_table_entry_t *entry)
{
    static const char *const numbers[] = {
        "x-message-ttl",    "x-expires",       "x-max-length",      "x-max-priority",
        "x-delivery-limit", "x-queue-version", "x-max-length-bytes"};
    static const char *const texts[] = {"x-dead-letter-exchange", "x-dead-letter-routing-key",
                                        "x-overflow", "x-dead-letter-strategy"};
    static const char *const types[] = {"classic", "quorum"};
    static const char *const modes[] = {"lazy", "default"};
    static const char *const type_key[] = {"x-queue-type"};
    static const char *const mode_key[] = {"x-queue-mode"};
    static const char *const active_key[] = {"x-single-active-consumer"};
    if (IS_ONE_OF(entry->key, numbers))
        return is_number(&entry->value);
    if (IS_ONE_OF(entry->key, texts))
        return is_text(&entry->value, NULL, 0);
    if (IS_ONE_OF(entry->key, type_key))
        return is_text(&entry->value, types, sizeof types / sizeof *types);
    if (IS_ONE_OF(entry->key, mode_key))
        return is_text(&entry->value, modes, sizeof modes / sizeof *modes);
    return IS_ONE_OF(entry->key, active_key) && entry->value.kind == AMQP_FIELD_KIND_BOOLEAN;
}

static bool are_harmless(const amqp_table_t *arguments)
{
    for (int i = 0; i < arguments->num_entries; i++)
        if (!is_harmless(&arguments->entries[i]))
            return false;
    return true;
}

bool method_leaves_nothing(amqp_method_number_t method, const void *decoded)
{
    const amqp_queue_declare_t *m = method == AMQP_QUEUE_DECLARE_METHOD ? decoded : NULL;
    bool is_connections = m && (m->exclusive || (m->queue.len == 0 && !m->passive));
    return rule_has(method, RULE_TIDY) && !is_connections;
}

static bool is_tame_queue(const amqp_queue_declare_t *m, unsigned major)
{
    /* A transient queue that is not exclusive: 541 from RabbitMQ 4 on, where it may be forbidden.
     */
    return !is_reply_name(m->queue) &&
           (m->passive || ((m->durable || major < 4) && are_harmless(&m->arguments)));
}

static bool is_tame_exchange(const amqp_exchange_declare_t *m)
{
    static const char *const types[] = {"direct", "fanout", "topic", "headers"};
    return m->passive || IS_ONE_OF(m->type, types); /* 3.x answers an unknown one with 503 */
}

/* True if RabbitMQ is not known to close the connection over it. */
static bool is_tame(amqp_method_number_t method, const void *decoded, unsigned major)
{
    switch (method) {
    case AMQP_EXCHANGE_DECLARE_METHOD:
        return is_tame_exchange(decoded);
    case AMQP_QUEUE_DECLARE_METHOD:
        return is_tame_queue(decoded, major);
    case AMQP_QUEUE_BIND_METHOD:
        return !is_reply_name(((const amqp_queue_bind_t *)decoded)->queue);
    case AMQP_QUEUE_UNBIND_METHOD:
        return !is_reply_name(((const amqp_queue_unbind_t *)decoded)->queue);
    case AMQP_QUEUE_PURGE_METHOD:
        return false; /* 540 for a stream */
    case AMQP_QUEUE_DELETE_METHOD: {
        const amqp_queue_delete_t *m = decoded;
        return !m->if_unused && !m->if_empty && !is_reply_name(m->queue); /* 540: quorum queues */
    }
    default:
        return true;
    }
}

bool shareable_method(amqp_method_number_t method, const void *decoded, unsigned major)
{
    return method_leaves_nothing(method, decoded) && is_tame(method, decoded, major);
}

/* The reply name and a dot, from where RabbitMQ reads a process identifier. */
static bool is_reply_key(const uint8_t *key, size_t len)
{
    return len >= sizeof reply_name && memcmp(key, reply_name, sizeof reply_name - 1) == 0 &&
           key[sizeof reply_name - 1] == '.';
}

static bool is_keyed_as_reply(const uint8_t *method, size_t len)
{
    struct publish publish;
    return publish_parse(method, len, &publish) &&
           is_reply_key(publish.routing_key, publish.routing_key_len);
}

/* The headers CC and BCC are routing keys too; a message without the property headers (2.3.5.2) has
 * none. */
static bool is_copied_as_reply(const uint8_t *header, size_t len)
{
    enum { FLAGS_AT = 12, FLAGS_BYTES = 2, HAS_HEADERS = 0x20 };
    if (len < FLAGS_AT + FLAGS_BYTES || !(header[FLAGS_AT] & HAS_HEADERS))
        return false;
    const uint8_t *end = header + len, *at = header + FLAGS_AT + FLAGS_BYTES;
    while ((at = memmem(at, (size_t)(end - at), reply_name, sizeof reply_name - 1))) {
        if (is_reply_key(at, (size_t)(end - at)))
            return true;
        at++;
    }
    return false;
}

bool shareable_publish(const uint8_t *method, size_t method_len, const uint8_t *header,
                       size_t header_len)
{
    return !is_keyed_as_reply(method, method_len) && !is_copied_as_reply(header, header_len);
}
