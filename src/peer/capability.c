#include "peer/capability.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/table.h"
#include "amqp/wire.h"
#include "base/assert.h"

enum { LENGTH_BYTES = 4, FIELD_MAX_BYTES = 64 };

static const amqp_field_value_t *find(const amqp_table_t *table, const char *name)
{
    for (int i = 0; i < table->num_entries; i++) {
        const amqp_table_entry_t *entry = &table->entries[i];
        if (entry->key.len == strlen(name) && memcmp(entry->key.bytes, name, entry->key.len) == 0)
            return &entry->value;
    }
    return NULL;
}

bool capability_find(const amqp_table_t *properties, const char *name)
{
    const amqp_field_value_t *capabilities = find(properties, "capabilities");
    if (!capabilities || capabilities->kind != AMQP_FIELD_KIND_TABLE)
        return false;
    const amqp_field_value_t *value = find(&capabilities->value.table, name);
    return value && value->kind == AMQP_FIELD_KIND_BOOLEAN && value->value.boolean;
}

static size_t put_name(uint8_t *out, const char *name)
{
    out[0] = (uint8_t)strlen(name);
    memcpy(out + 1, name, out[0]);
    return 1 + out[0];
}

/* The table whose length stands at `length` grows at its front. */
static void insert(uint8_t *table, size_t *len, uint8_t *length, const uint8_t *field, size_t size)
{
    uint8_t *front = length + LENGTH_BYTES;
    memmove(front + size, front, *len - (size_t)(front - table));
    memcpy(front, field, size);
    wire_put32(length, wire_get32(length) + (uint32_t)size);
    *len += size;
}

/* The field capabilities, which is added if it is missing; NULL: it is something else. */
static uint8_t *capabilities_of(uint8_t *table, size_t *len)
{
    if (!table_find(table + LENGTH_BYTES, *len - LENGTH_BYTES, "capabilities")) {
        uint8_t field[FIELD_MAX_BYTES] = {0};
        size_t size = put_name(field, "capabilities");
        field[size] = 'F';
        insert(table, len, table, field, size + 1 + LENGTH_BYTES);
    }
    const uint8_t *value = table_find(table + LENGTH_BYTES, *len - LENGTH_BYTES, "capabilities");
    return *value == 'F' ? table + (value - table) : NULL;
}

static void announce(uint8_t *table, size_t *len, const char *name)
{
    uint8_t *capabilities = capabilities_of(table, len);
    if (!capabilities)
        return;
    uint8_t *length = capabilities + 1;
    const uint8_t *value = table_find(length + LENGTH_BYTES, wire_get32(length), name);
    if (value && *value == 't') {
        table[value + 1 - table] = 1;
        return;
    }
    uint8_t field[FIELD_MAX_BYTES];
    size_t size = put_name(field, name);
    field[size++] = 't';
    field[size++] = 1;
    insert(table, len, length, field, size);
    wire_put32(table, (uint32_t)(*len - LENGTH_BYTES));
}

uint8_t *capability_announce(const uint8_t *properties, size_t *len)
{
    static const char *const names[] = {"connection.blocked", "authentication_failure_close"};
    uint8_t *table = malloc(*len + 3 * FIELD_MAX_BYTES);
    ENSURE(table);
    memcpy(table, properties, *len);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        announce(table, len, names[i]);
    return table;
}

unsigned capability_version(const amqp_table_t *properties)
{
    const amqp_field_value_t *value = find(properties, "version");
    unsigned major = 0;
    if (!value || value->kind != AMQP_FIELD_KIND_UTF8)
        return 0;
    const char *text = value->value.bytes.bytes;
    for (size_t i = 0; i < value->value.bytes.len && i < 4 && text[i] >= '0' && text[i] <= '9'; i++)
        major = major * 10 + (unsigned)(text[i] - '0');
    return major;
}
