#include "json/json.h"

#include <math.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/properties.h"
#include "base/assert.h"
#include "base/utf8.h"
#include "json/escape.h"
#include "json/moment.h"
#include "json/routing.h"

/* Out of memory is the only way in which jansson fails here. */
static void put(json_t *object, const char *key, json_t *value)
{
    int result = json_object_set_new_nocheck(object, key, value);
    ENSURE(result == 0);
}

static json_t *json_base64_text(const uint8_t *bytes, size_t len)
{
    enum { PIECE_BYTES = 3 * 1024 * 1024 }; /* EVP_EncodeBlock counts in int */
    char *text = malloc((len + 2) / 3 * 4 + 1), *at = text;
    ENSURE(text);
    while (len > 0) {
        size_t piece = len < PIECE_BYTES ? len : PIECE_BYTES;
        at += EVP_EncodeBlock((unsigned char *)at, bytes, (int)piece);
        bytes += piece;
        len -= piece;
    }
    json_t *string = json_stringn_nocheck(text, (size_t)(at - text));
    free(text);
    return string;
}

static json_t *json_utf8(const void *bytes, size_t len)
{
    /* JSON can hold NUL, but much of what reads JSON cannot. */
    return memchr(bytes, 0, len) ? NULL : json_stringn(bytes, len);
}

json_t *json_bytes(const void *bytes, size_t len)
{
    if (len == 0)
        return json_string("");
    json_t *text = json_utf8(bytes, len);
    return text ? text : json_pack("{s:o}", "base64", json_base64_text(bytes, len));
}

json_t *json_moment(uint64_t at_us)
{
    char text[MOMENT_TEXT_BYTES];
    return moment_format(at_us, text) ? json_string(text) : json_integer((json_int_t)at_us);
}

/* Of AMQP: whole seconds. Clients that put milliseconds there are seen by the number. */
static json_t *json_timestamp(uint64_t at_s)
{
    char text[MOMENT_TEXT_BYTES];
    if (at_s < UINT64_MAX / 1000000 && moment_format(at_s * 1000000, text))
        return json_string(text);
    if (at_s <= INT64_MAX)
        return json_integer((json_int_t)at_s);
    snprintf(text, sizeof text, "%llu", (unsigned long long)at_s);
    return json_string(text);
}

static json_t *json_number(double number)
{
    if (isfinite(number))
        return json_real(number);
    return json_string(isnan(number) ? "NaN" : number > 0 ? "Infinity" : "-Infinity");
}

static json_t *json_decimal(amqp_decimal_t decimal)
{
    char digits[300];
    /* At least one digit stands before the point. */
    int len = snprintf(digits, sizeof digits, "%0*u", decimal.decimals + 1, decimal.value);
    int whole = len - decimal.decimals;
    return json_pack(
        "{s:o}", "decimal",
        json_sprintf("%.*s%s%s", whole, digits, decimal.decimals > 0 ? "." : "", digits + whole));
}

static json_t *json_array_of(const amqp_array_t *array)
{
    json_t *list = json_array();
    for (int i = 0; i < array->num_entries; i++) {
        int result = json_array_append_new(list, json_field(&array->entries[i]));
        ENSURE(result == 0);
    }
    return list;
}

/* A name in a table is any bytes, a key in JSON is text. */
static void put_named(json_t *object, amqp_bytes_t name, json_t *value)
{
    json_t *text = name.len == 0 ? json_string("") : json_utf8(name.bytes, name.len);
    char *escaped = text ? NULL : escape_text(name.bytes, name.len);
    put(object, text ? json_string_value(text) : escaped, value);
    free(escaped);
    json_decref(text);
}

json_t *json_table(const amqp_table_t *table)
{
    json_t *object = json_object();
    for (int i = 0; i < table->num_entries; i++)
        put_named(object, table->entries[i].key, json_field(&table->entries[i].value));
    return object;
}

json_t *json_field(const amqp_field_value_t *field)
{
    int64_t integer;
    if (property_integer(field, &integer))
        return json_integer(integer);
    const amqp_bytes_t bytes = field->value.bytes;
    switch (field->kind) {
    case AMQP_FIELD_KIND_BOOLEAN:
        return json_boolean(field->value.boolean);
    case AMQP_FIELD_KIND_F32:
        return json_number((double)field->value.f32);
    case AMQP_FIELD_KIND_F64:
        return json_number(field->value.f64);
    case AMQP_FIELD_KIND_DECIMAL:
        return json_decimal(field->value.decimal);
    case AMQP_FIELD_KIND_UTF8:
        return json_bytes(bytes.bytes, bytes.len);
    case AMQP_FIELD_KIND_BYTES:
        return json_pack("{s:o}", "base64", json_base64_text(bytes.bytes, bytes.len));
    case AMQP_FIELD_KIND_TIMESTAMP:
        return json_timestamp(field->value.u64);
    case AMQP_FIELD_KIND_ARRAY:
        return json_array_of(&field->value.array);
    case AMQP_FIELD_KIND_TABLE:
        return json_table(&field->value.table);
    default: /* V: nothing else passes table_check */
        return json_null();
    }
}

static void put_property(void *arg, const char *name, const amqp_field_value_t *value)
{
    put(arg, name, json_field(value));
}

static bool put_properties(json_t *object, const struct reader_record *record)
{
    struct properties properties;
    if (!properties_decode(&properties, record->header, record->header_len))
        return false;
    json_t *list = json_object();
    properties_each(&properties, put_property, list);
    put(object, "properties", list);
    properties_deinit(&properties);
    return true;
}

static void put_body(json_t *object, const struct reader_record *record)
{
    const uint8_t *bytes = record->body;
    size_t len = record->body_size;
    json_t *text = len == 0 ? json_string("") : json_utf8(bytes, len);
    put(object, "body", text ? text : json_base64_text(bytes, len));
    put(object, "body_encoding", json_string(text ? "utf8" : "base64"));
}

static bool put_publish(json_t *object, const struct reader_record *record,
                        const struct routing *routing, bool body)
{
    put(object, "exchange", json_bytes(routing->exchange.bytes, routing->exchange.len));
    put(object, "routing_key", json_bytes(routing->routing_key.bytes, routing->routing_key.len));
    put(object, "mandatory", json_boolean(routing->mandatory));
    put(object, "immediate", json_boolean(routing->immediate));
    if (!put_properties(object, record))
        return false;
    put(object, "body_size", json_integer((json_int_t)record->body_size));
    if (body)
        put_body(object, record);
    return true;
}

static json_t *text_of(amqp_bytes_t bytes)
{
    return json_bytes(bytes.bytes, bytes.len);
}

static void put_exchange_declare(json_t *fields, const amqp_exchange_declare_t *method)
{
    put(fields, "exchange", text_of(method->exchange));
    put(fields, "type", text_of(method->type));
    put(fields, "durable", json_boolean(method->durable));
    put(fields, "auto_delete", json_boolean(method->auto_delete));
    put(fields, "internal", json_boolean(method->internal));
    put(fields, "arguments", json_table(&method->arguments));
}

static void put_queue_declare(json_t *fields, const amqp_queue_declare_t *method)
{
    put(fields, "queue", text_of(method->queue));
    put(fields, "durable", json_boolean(method->durable));
    put(fields, "exclusive", json_boolean(method->exclusive));
    put(fields, "auto_delete", json_boolean(method->auto_delete));
    put(fields, "arguments", json_table(&method->arguments));
}

static void put_queue_bind(json_t *fields, const amqp_queue_bind_t *method)
{
    put(fields, "queue", text_of(method->queue));
    put(fields, "exchange", text_of(method->exchange));
    put(fields, "routing_key", text_of(method->routing_key));
    put(fields, "arguments", json_table(&method->arguments));
}

static void put_exchange_bind(json_t *fields, const amqp_exchange_bind_t *method)
{
    put(fields, "destination", text_of(method->destination));
    put(fields, "source", text_of(method->source));
    put(fields, "routing_key", text_of(method->routing_key));
    put(fields, "arguments", json_table(&method->arguments));
}

/* In an object of their own, because queue.declare has a field "queue", and so has a record. */
static void put_declaration(json_t *object, const struct routing *routing)
{
    json_t *fields = json_object();
    put(object, "kind", json_string("declare"));
    put(object, "method", json_string(method_name(routing->number)));
    put(object, "fields", fields);
    if (routing->number == AMQP_EXCHANGE_DECLARE_METHOD)
        put_exchange_declare(fields, routing->decoded);
    else if (routing->number == AMQP_QUEUE_DECLARE_METHOD)
        put_queue_declare(fields, routing->decoded);
    else if (routing->number == AMQP_QUEUE_BIND_METHOD)
        put_queue_bind(fields, routing->decoded);
    else
        put_exchange_bind(fields, routing->decoded);
}

static json_t *json_rejection(const struct reader_record *record)
{
    if (!record->is_rejected)
        return json_null();
    const struct rejection *rejection = &record->rejection;
    return json_pack("{s:i, s:o, s:o}", "code", rejection->code, "text",
                     json_bytes(rejection->text, rejection->text_len), "at",
                     json_moment(rejection->at_us));
}

json_t *json_record(const char *user, const char *vhost, const struct reader_record *record,
                    const struct routing *routing, bool body)
{
    json_t *object = json_object();
    put(object, "queue", json_integer(record->queue));
    put(object, "seq", json_integer((json_int_t)record->seq));
    put(object, "user", json_bytes(user, strlen(user)));
    put(object, "vhost", json_bytes(vhost, strlen(vhost)));
    put(object, "received_at", json_moment(record->received_at_us));
    if (record->kind == RECORD_DECLARE)
        put_declaration(object, routing);
    else if (!put_publish(object, record, routing, body)) {
        json_decref(object);
        return NULL;
    }
    put(object, "rejected", json_rejection(record));
    return object;
}

/* ---- as text ---- */

/* Beyond 16 bits JSON wants two of UTF-16. */
static int write_escaped(char out[16], uint32_t c)
{
    if (c < 0x10000)
        return snprintf(out, 16, "\\u%04x", (unsigned)c);
    c -= 0x10000;
    return snprintf(out, 16, "\\u%04x\\u%04x", 0xD800U + (unsigned)(c >> 10),
                    0xDC00U + (unsigned)(c & 0x3FF));
}

struct sink {
    bool (*write)(void *arg, const void *bytes, size_t len);
    void *arg;
};

/* jansson hands over whole characters, which it has checked; those in question stand only within
 * strings, where an escape means the same. */
static int on_json(const char *buffer, size_t size, void *arg)
{
    const struct sink *sink = arg;
    size_t done = 0, used;
    for (size_t at = 0; at < size; at += used) {
        uint32_t codepoint;
        used = utf8_next(buffer + at, &codepoint);
        if (!escape_is_due(codepoint))
            continue;
        char escaped[16];
        int len = write_escaped(escaped, codepoint);
        sink->write(sink->arg, buffer + done, at - done);
        sink->write(sink->arg, escaped, (size_t)len);
        done = at + used;
    }
    return sink->write(sink->arg, buffer + done, size - done) ? 0 : -1;
}

bool json_write(json_t *json, size_t flags, bool (*write)(void *arg, const void *bytes, size_t len),
                void *arg)
{
    ENSURE(json);
    struct sink sink = {write, arg};
    bool written = json_dump_callback(json, on_json, &sink, flags) == 0 && write(arg, "\n", 1);
    json_decref(json);
    return written;
}
