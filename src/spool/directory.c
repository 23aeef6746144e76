#include "spool/directory.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "base/assert.h"
#include "spool/big_endian.h"

enum {
    COUNTERS_BYTES = 4 * 8, /* next_seq, messages, bytes, rejected */
    CHECKSUM_BYTES = 8,
    AT_LOGIN_CHECKSUM = COUNTERS_BYTES + CHECKSUM_BYTES,
    AT_LOGIN = AT_LOGIN_CHECKSUM + CHECKSUM_BYTES,
    LENGTHS_BYTES = 3 * 2, /* of user, vhost, sealed */
    FIXED_BYTES = AT_LOGIN + LENGTHS_BYTES,
};

void directory_entry_clear(struct directory_entry *entry)
{
    free(entry->user);
    free(entry->vhost);
    free(entry->sealed);
    *entry = (struct directory_entry){0};
}

/* Whose entry it is is part of what is summed, so that one cannot pass for another. */
static uint64_t checksum(uint32_t id, const uint8_t *bytes, size_t len)
{
    uint8_t key[4];
    directory_key(key, id);
    return XXH3_64bits_withSeed(bytes, len, XXH3_64bits(key, sizeof key));
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
    uint8_t *at = value + AT_LOGIN;
    big_endian_put(at, user_len, 2);
    big_endian_put(at + 2, vhost_len, 2);
    big_endian_put(at + 4, entry->sealed_len, 2);
    at += LENGTHS_BYTES;
    memcpy(at, entry->user, user_len);
    memcpy(at + user_len, entry->vhost, vhost_len);
    if (entry->sealed_len > 0)
        memcpy(at + user_len + vhost_len, entry->sealed, entry->sealed_len);
    big_endian_put(value + COUNTERS_BYTES, checksum(entry->id, value, COUNTERS_BYTES), 8);
    big_endian_put(value + AT_LOGIN_CHECKSUM,
                   checksum(entry->id, value + AT_LOGIN, *len - AT_LOGIN), 8);
    return value;
}

static bool counters_are_sound(uint32_t id, const MDB_val *value)
{
    const uint8_t *at = value->mv_data;
    return value->mv_size >= AT_LOGIN_CHECKSUM &&
           big_endian_get(at + COUNTERS_BYTES, 8) == checksum(id, at, COUNTERS_BYTES);
}

static bool login_is_sound(uint32_t id, const MDB_val *value)
{
    const uint8_t *at = value->mv_data;
    if (value->mv_size < FIXED_BYTES || big_endian_get(at + AT_LOGIN_CHECKSUM, 8) !=
                                            checksum(id, at + AT_LOGIN, value->mv_size - AT_LOGIN))
        return false;
    at += AT_LOGIN;
    return big_endian_get(at, 2) + big_endian_get(at + 2, 2) + big_endian_get(at + 4, 2) ==
           value->mv_size - FIXED_BYTES;
}

static void take_counters(struct directory_entry *entry, const uint8_t *at)
{
    entry->next_seq = big_endian_get(at, 8);
    entry->messages = big_endian_get(at + 8, 8);
    entry->bytes = big_endian_get(at + 16, 8);
    entry->rejected = big_endian_get(at + 24, 8);
}

static void take_login(struct directory_entry *entry, const uint8_t *at)
{
    size_t user_len = (size_t)big_endian_get(at, 2), vhost_len = (size_t)big_endian_get(at + 2, 2);
    entry->sealed_len = (size_t)big_endian_get(at + 4, 2);
    at += LENGTHS_BYTES;
    entry->user = strndup((const char *)at, user_len);
    entry->vhost = strndup((const char *)at + user_len, vhost_len);
    entry->sealed = malloc(entry->sealed_len + 1);
    ENSURE(entry->user && entry->vhost && entry->sealed);
    memcpy(entry->sealed, at + user_len + vhost_len, entry->sealed_len);
}

enum status directory_decode(const MDB_val *key, const MDB_val *value,
                             struct directory_entry *entry, struct failure *failure)
{
    if (key->mv_size != 4)
        return failure_set(failure, STATUS_DAMAGED, "a key of the queues is unreadable");
    *entry =
        (struct directory_entry){.id = (uint32_t)big_endian_get(key->mv_data, 4), .next_seq = 1};
    if (counters_are_sound(entry->id, value))
        take_counters(entry, value->mv_data);
    else
        entry->lost |= DIRECTORY_COUNTERS_LOST;
    if (login_is_sound(entry->id, value)) {
        take_login(entry, (const uint8_t *)value->mv_data + AT_LOGIN);
        return STATUS_OK;
    }
    entry->lost |= DIRECTORY_LOGIN_LOST;
    entry->user = strdup("");
    entry->vhost = strdup("");
    ENSURE(entry->user && entry->vhost);
    return STATUS_OK;
}

void directory_key(uint8_t key[4], uint32_t id)
{
    big_endian_put(key, id, 4);
}
