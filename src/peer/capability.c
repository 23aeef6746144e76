#include "peer/capability.h"

#include <string.h>

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
