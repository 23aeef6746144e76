#include "spool/record.h"

#include <string.h>

#include <xxhash.h>

#include "base/assert.h"
#include "spool/big_endian.h"

enum {
    AT_MAGIC = 0,
    AT_VERSION = 2,
    AT_KIND = 3,
    AT_FLAGS = 4,
    AT_RECEIVED = 8,
    AT_METHOD_LEN = 16,
    AT_HEADER_LEN = 20,
    AT_BODY_SIZE = 24,
    AT_CODE = 32,
    AT_TEXT_LEN = 34,
    AT_REJECTED = 40,
    AT_CHECKSUM = 48,

    FLAG_PARTED = 1,
    FLAG_REJECTED = 2,
};

static const uint8_t magic[2] = {'a', 'b'};

void record_key(uint8_t key[RECORD_KEY_BYTES], uint32_t queue, uint64_t seq)
{
    big_endian_put(key, queue, 4);
    big_endian_put(key + 4, seq, 8);
}

void record_part_key(uint8_t key[RECORD_PART_KEY_BYTES], uint32_t queue, uint64_t seq,
                     uint32_t part)
{
    record_key(key, queue, seq);
    big_endian_put(key + RECORD_KEY_BYTES, part, 4);
}

uint32_t record_key_queue(const uint8_t *key)
{
    return (uint32_t)big_endian_get(key, 4);
}

uint64_t record_key_seq(const uint8_t *key)
{
    return big_endian_get(key + 4, 8);
}

uint32_t record_key_part(const uint8_t *key)
{
    return (uint32_t)big_endian_get(key + RECORD_KEY_BYTES, 4);
}

uint32_t record_part_count(uint64_t body_size)
{
    return (uint32_t)((body_size + RECORD_PART_BYTES - 1) / RECORD_PART_BYTES);
}

size_t record_part_size(uint64_t body_size, uint32_t part)
{
    ENSURE(part >= 1 && part <= record_part_count(body_size));
    uint64_t left = body_size - (uint64_t)(part - 1) * RECORD_PART_BYTES;
    return left < RECORD_PART_BYTES ? (size_t)left : RECORD_PART_BYTES;
}

size_t record_size(const struct record *r)
{
    size_t body = record_is_parted(r->body_size) ? 0 : (size_t)r->body_size;
    return RECORD_HEAD_BYTES + r->method.iov_len + r->header.iov_len + body +
           (r->is_rejected ? r->rejection.text_len : 0);
}

/* Where a record stands is part of what is summed, so that one cannot pass for another. */
static uint64_t place_seed(uint32_t queue, uint64_t seq, uint32_t part)
{
    uint8_t place[RECORD_PART_KEY_BYTES];
    record_part_key(place, queue, seq, part);
    return XXH3_64bits(place, sizeof place);
}

static uint64_t checksum(const uint8_t *value, size_t len, uint32_t queue, uint64_t seq)
{
    uint64_t head = XXH3_64bits_withSeed(value, AT_CHECKSUM, place_seed(queue, seq, 0));
    return XXH3_64bits_withSeed(value + RECORD_HEAD_BYTES, len - RECORD_HEAD_BYTES, head);
}

static uint8_t *put_iov(uint8_t *at, struct iovec iov)
{
    if (iov.iov_len > 0)
        memcpy(at, iov.iov_base, iov.iov_len);
    return at + iov.iov_len;
}

void record_write(uint8_t *out, uint32_t queue, uint64_t seq, const struct record *r,
                  const struct iovec *body, size_t body_count)
{
    bool parted = record_is_parted(r->body_size);
    memset(out, 0, RECORD_HEAD_BYTES);
    memcpy(out + AT_MAGIC, magic, sizeof magic);
    out[AT_VERSION] = RECORD_VERSION;
    out[AT_KIND] = (uint8_t)r->kind;
    out[AT_FLAGS] = (uint8_t)((parted ? FLAG_PARTED : 0) | (r->is_rejected ? FLAG_REJECTED : 0));
    big_endian_put(out + AT_RECEIVED, r->received_at_us, 8);
    big_endian_put(out + AT_METHOD_LEN, r->method.iov_len, 4);
    big_endian_put(out + AT_HEADER_LEN, r->header.iov_len, 4);
    big_endian_put(out + AT_BODY_SIZE, r->body_size, 8);
    uint8_t *at = put_iov(put_iov(out + RECORD_HEAD_BYTES, r->method), r->header);
    if (!parted)
        for (size_t i = 0; i < body_count; i++)
            at = put_iov(at, body[i]);
    if (r->is_rejected) {
        big_endian_put(out + AT_CODE, r->rejection.code, 2);
        big_endian_put(out + AT_TEXT_LEN, r->rejection.text_len, 2);
        big_endian_put(out + AT_REJECTED, r->rejection.at_us, 8);
        at = put_iov(at, (struct iovec){(void *)r->rejection.text, r->rejection.text_len});
    }
    size_t len = (size_t)(at - out);
    ENSURE(len == record_size(r));
    big_endian_put(out + AT_CHECKSUM, checksum(out, len, queue, seq), 8);
}

/* The lengths in the head must add up to the value's. */
static bool lengths_fit(const uint8_t *value, size_t len)
{
    uint64_t left = len - RECORD_HEAD_BYTES;
    uint64_t fields[] = {
        big_endian_get(value + AT_METHOD_LEN, 4),
        big_endian_get(value + AT_HEADER_LEN, 4),
        value[AT_FLAGS] & FLAG_PARTED ? 0 : big_endian_get(value + AT_BODY_SIZE, 8),
        big_endian_get(value + AT_TEXT_LEN, 2),
    };
    for (unsigned i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (fields[i] > left)
            return false;
        left -= fields[i];
    }
    return left == 0;
}

static enum status damaged(const char **what, const char *why)
{
    *what = why;
    return STATUS_DAMAGED;
}

static enum status check_lengths(const uint8_t *value, size_t len, const char **what)
{
    if (len < RECORD_HEAD_BYTES)
        return damaged(what, "shorter than a record's head");
    if (memcmp(value + AT_MAGIC, magic, sizeof magic) != 0)
        return damaged(what, "wrong magic number");
    if (value[AT_VERSION] > RECORD_VERSION) {
        *what = "written by a newer version";
        return STATUS_VERSION;
    }
    return lengths_fit(value, len) ? STATUS_OK : damaged(what, "lengths do not add up");
}

static enum status take_apart(const uint8_t *value, struct record *r, const char **what)
{
    *r = (struct record){
        .kind = (enum record_kind)value[AT_KIND],
        .parted = value[AT_FLAGS] & FLAG_PARTED,
        .received_at_us = big_endian_get(value + AT_RECEIVED, 8),
        .body_size = big_endian_get(value + AT_BODY_SIZE, 8),
        .is_rejected = value[AT_FLAGS] & FLAG_REJECTED,
    };
    if (r->kind != RECORD_PUBLISH && r->kind != RECORD_DECLARE)
        return damaged(what, "unknown kind");
    if (r->parted != record_is_parted(r->body_size))
        return damaged(what, "parts where none belong");
    if (r->body_size > (uint64_t)UINT32_MAX * RECORD_PART_BYTES)
        return damaged(what, "impossible size of the body");
    uint8_t *at = (uint8_t *)value + RECORD_HEAD_BYTES;
    r->method = (struct iovec){at, (size_t)big_endian_get(value + AT_METHOD_LEN, 4)};
    at += r->method.iov_len;
    r->header = (struct iovec){at, (size_t)big_endian_get(value + AT_HEADER_LEN, 4)};
    at += r->header.iov_len;
    if (!r->parted) {
        r->body = at;
        at += r->body_size;
    }
    r->rejection = (struct rejection){
        .code = (uint16_t)big_endian_get(value + AT_CODE, 2),
        .text = (const char *)at,
        .text_len = (uint16_t)big_endian_get(value + AT_TEXT_LEN, 2),
        .at_us = big_endian_get(value + AT_REJECTED, 8),
    };
    return STATUS_OK;
}

enum status record_read(const uint8_t *value, size_t len, uint32_t queue, uint64_t seq,
                        struct record *r, const char **what)
{
    enum status status = check_lengths(value, len, what);
    if (status != STATUS_OK)
        return status;
    if (big_endian_get(value + AT_CHECKSUM, 8) != checksum(value, len, queue, seq))
        return damaged(what, "wrong checksum");
    return take_apart(value, r, what);
}

enum status record_guess(const uint8_t *value, size_t len, struct record *r, const char **what)
{
    enum status status = check_lengths(value, len, what);
    return status == STATUS_OK ? take_apart(value, r, what) : status;
}

static uint64_t part_checksum(const uint8_t *value, size_t len, uint32_t queue, uint64_t seq,
                              uint32_t part)
{
    return XXH3_64bits_withSeed(value + RECORD_PART_CHECKSUM_BYTES, len,
                                place_seed(queue, seq, part));
}

void record_part_seal(uint8_t *value, size_t len, uint32_t queue, uint64_t seq, uint32_t part)
{
    big_endian_put(value, part_checksum(value, len, queue, seq, part), RECORD_PART_CHECKSUM_BYTES);
}

bool record_part_check(const uint8_t *value, size_t len, uint32_t queue, uint64_t seq,
                       uint32_t part)
{
    return big_endian_get(value, RECORD_PART_CHECKSUM_BYTES) ==
           part_checksum(value, len, queue, seq, part);
}
