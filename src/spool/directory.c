#include "spool/directory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "spool/big_endian.h"

/* next_seq, messages, bytes, rejected (8 each), lengths of user, vhost, sealed (2 each). */
enum { FIXED_BYTES = 4 * 8 + 3 * 2 };

void directory_entry_clear(struct directory_entry *entry)
{
    free(entry->user);
    free(entry->vhost);
    free(entry->sealed);
    *entry = (struct directory_entry){0};
}

uint8_t *directory_encode(const struct directory_entry *entry, size_t *len)
{
    size_t user_len = strlen(entry->user), vhost_len = strlen(entry->vhost);
    *len = FIXED_BYTES + user_len + vhost_len + entry->sealed_len;
    uint8_t *value = malloc(*len);
    ENSURE(value);
    big_endian_put(value, entry->next_seq, 8);
    big_endian_put(value + 8, entry->messages, 8);
    big_endian_put(value + 16, entry->bytes, 8);
    big_endian_put(value + 24, entry->rejected, 8);
    big_endian_put(value + 32, user_len, 2);
    big_endian_put(value + 34, vhost_len, 2);
    big_endian_put(value + 36, entry->sealed_len, 2);
    uint8_t *at = value + FIXED_BYTES;
    memcpy(at, entry->user, user_len);
    memcpy(at + user_len, entry->vhost, vhost_len);
    if (entry->sealed_len > 0)
        memcpy(at + user_len + vhost_len, entry->sealed, entry->sealed_len);
    return value;
}

enum status directory_decode(const MDB_val *key, const MDB_val *value,
                             struct directory_entry *entry, struct failure *failure)
{
    const uint8_t *at = value->mv_data;
    size_t user_len, vhost_len, sealed_len;
    if (key->mv_size != 4 || value->mv_size < FIXED_BYTES)
        return failure_set(failure, STATUS_DAMAGED, "an entry of the queues is unreadable");
    user_len = (size_t)big_endian_get(at + 32, 2);
    vhost_len = (size_t)big_endian_get(at + 34, 2);
    sealed_len = (size_t)big_endian_get(at + 36, 2);
    if (user_len + vhost_len + sealed_len != value->mv_size - FIXED_BYTES)
        return failure_set(failure, STATUS_DAMAGED, "an entry of the queues is unreadable");
    *entry = (struct directory_entry){
        .id = (uint32_t)big_endian_get(key->mv_data, 4),
        .next_seq = big_endian_get(at, 8),
        .messages = big_endian_get(at + 8, 8),
        .bytes = big_endian_get(at + 16, 8),
        .rejected = big_endian_get(at + 24, 8),
        .sealed_len = sealed_len,
    };
    at += FIXED_BYTES;
    entry->user = strndup((const char *)at, user_len);
    entry->vhost = strndup((const char *)at + user_len, vhost_len);
    entry->sealed = malloc(sealed_len + 1);
    ENSURE(entry->user && entry->vhost && entry->sealed);
    memcpy(entry->sealed, at + user_len + vhost_len, sealed_len);
    return STATUS_OK;
}

void directory_key(uint8_t key[4], uint32_t id)
{
    big_endian_put(key, id, 4);
}

void directory_database(char name[16], char list, uint32_t id)
{
    snprintf(name, 16, "%c/%u", list, id);
}
