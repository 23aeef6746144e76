/* Entries of the queues: what is written can be read, no flipped bit goes unseen, and nothing that
 * lies on the disk, in either format, is read beyond its end.
 *
 * Input: a mode (1 byte), the id (2 bytes), then, by the mode, a value as it lies on the disk, or
 * the fields of an entry. */

#include "fuzz.h"
#include "spool/directory.h"
#include "spool/format1.h"

enum { MODE_VALUE, MODE_OLD_VALUE, MODE_FIELDS, MODES };

static enum status decode(uint32_t id, const uint8_t *bytes, size_t len,
                          struct directory_entry *entry)
{
    uint8_t key_bytes[4];
    directory_key(key_bytes, id);
    MDB_val key = {sizeof key_bytes, key_bytes}, value = {len, (void *)(uintptr_t)bytes};
    return directory_decode(&key, &value, entry, NULL);
}

static void check_same(const struct directory_entry *a, const struct directory_entry *b)
{
    ENSURE(a->id == b->id && a->next_seq == b->next_seq && a->messages == b->messages);
    ENSURE(a->bytes == b->bytes && a->rejected == b->rejected);
    ENSURE(strcmp(a->user, b->user) == 0 && strcmp(a->vhost, b->vhost) == 0);
    ENSURE(bytes_equal(a->sealed, a->sealed_len, b->sealed, b->sealed_len));
}

/* One bit costs the counters or the login, and not both. */
static void check_flip(const struct directory_entry *entry, const uint8_t *value, size_t len,
                       size_t bit)
{
    uint8_t *flipped = exact_copy(value, len);
    struct directory_entry damaged;
    flipped[bit / 8 % len] ^= (uint8_t)(1 << bit % 8);
    ENSURE(decode(entry->id, flipped, len, &damaged) == STATUS_OK);
    ENSURE(damaged.lost == DIRECTORY_LOGIN_LOST || damaged.lost == DIRECTORY_COUNTERS_LOST);
    directory_entry_clear(&damaged);
    free(flipped);
}

static void check_round(const struct directory_entry *entry, size_t bit)
{
    struct directory_entry again;
    size_t len;
    uint8_t *value = directory_encode(entry, &len);
    ENSURE(decode(entry->id, value, len, &again) == STATUS_OK && again.lost == 0);
    check_same(entry, &again);
    directory_entry_clear(&again);
    ENSURE(decode(entry->id + 1, value, len, &again) == STATUS_OK);
    ENSURE(again.lost == (DIRECTORY_LOGIN_LOST | DIRECTORY_COUNTERS_LOST));
    directory_entry_clear(&again);
    check_flip(entry, value, len, bit);
    free(value);
}

static void look_at_value(const struct input *in, uint32_t id)
{
    uint8_t *bytes = exact_copy(in->at, in->left);
    struct directory_entry entry;
    ENSURE(decode(id, bytes, in->left, &entry) == STATUS_OK);
    ENSURE(entry.user && entry.vhost);
    directory_entry_clear(&entry);
    free(bytes);
}

/* What a migration makes of it can be read again. */
static void look_at_old_value(const struct input *in, uint32_t id)
{
    uint8_t *bytes = exact_copy(in->at, in->left);
    MDB_val value = {in->left, bytes};
    struct directory_entry entry;
    if (format1_entry(id, &value, &entry)) {
        check_round(&entry, in->left);
        directory_entry_clear(&entry);
    }
    free(bytes);
}

static char *take_text(struct input *in)
{
    size_t len;
    const uint8_t *at = input_take(in, input_octet(in), &len);
    char *text = calloc(1, len + 1);
    ENSURE(text);
    for (size_t i = 0; i < len; i++)
        text[i] = (char)(at[i] ? at[i] : 'x');
    return text;
}

static void look_at_fields(struct input *in, uint32_t id)
{
    size_t bit = (size_t)input_number(in, 2);
    struct directory_entry entry = {.id = id,
                                    .next_seq = input_number(in, 8),
                                    .messages = input_number(in, 8),
                                    .bytes = input_number(in, 8),
                                    .rejected = input_number(in, 8),
                                    .user = take_text(in),
                                    .vhost = take_text(in)};
    entry.sealed_len = in->left < UINT16_MAX ? in->left : UINT16_MAX;
    entry.sealed = exact_copy(in->at, entry.sealed_len);
    check_round(&entry, bit);
    directory_entry_clear(&entry);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint8_t mode = input_octet(&in) % MODES;
    uint32_t id = (uint32_t)input_number(&in, 2);
    if (mode == MODE_VALUE)
        look_at_value(&in, id);
    else if (mode == MODE_OLD_VALUE)
        look_at_old_value(&in, id);
    else
        look_at_fields(&in, id);
    return 0;
}
