/* Records of the spool: what can be read is written with the same length, what is written can be
 * read, and no flipped bit goes unseen.
 *
 * Input: a mode (1 byte), queue and sequence number (2 bytes each), then, by the mode, a value as
 * it lies on the disk, the same with its checksum made right, or the fields of a record. */

#include "fuzz.h"
#include "spool/big_endian.h"
#include "spool/record.h"

#include <xxhash.h>

enum { AT_CHECKSUM = 48 };

struct place {
    uint32_t queue;
    uint64_t seq;
};

/* The checksum as docs/spool-format.md has it, so that the fields behind it are looked at. */
static void seal(uint8_t *value, size_t len, const struct place *place)
{
    uint8_t seed[16] = {0};
    big_endian_put(seed, place->queue, 4);
    big_endian_put(seed + 4, place->seq, 8);
    uint64_t head = XXH3_64bits_withSeed(value, AT_CHECKSUM, XXH3_64bits(seed, sizeof seed));
    uint64_t sum = XXH3_64bits_withSeed(value + RECORD_HEAD_BYTES, len - RECORD_HEAD_BYTES, head);
    big_endian_put(value + AT_CHECKSUM, sum, 8);
}

static struct iovec body_of(const struct record *r)
{
    return (struct iovec){(void *)(uintptr_t)r->body, r->parted ? 0 : (size_t)r->body_size};
}

static uint8_t *written(const struct record *r, const struct place *place, size_t *len)
{
    struct iovec body = body_of(r);
    *len = record_size(r);
    uint8_t *value = malloc(*len);
    ENSURE(value);
    record_write(value, place->queue, place->seq, r, &body, 1);
    return value;
}

static void check_same(const struct record *a, const struct record *b)
{
    ENSURE(a->kind == b->kind && a->parted == b->parted && a->is_rejected == b->is_rejected);
    ENSURE(a->received_at_us == b->received_at_us && a->body_size == b->body_size);
    ENSURE(
        bytes_equal(a->method.iov_base, a->method.iov_len, b->method.iov_base, b->method.iov_len));
    ENSURE(
        bytes_equal(a->header.iov_base, a->header.iov_len, b->header.iov_base, b->header.iov_len));
    struct iovec a_body = body_of(a), b_body = body_of(b);
    ENSURE(bytes_equal(a_body.iov_base, a_body.iov_len, b_body.iov_base, b_body.iov_len));
    if (!a->is_rejected)
        return;
    ENSURE(a->rejection.code == b->rejection.code && a->rejection.at_us == b->rejection.at_us);
    ENSURE(bytes_equal(a->rejection.text, a->rejection.text_len, b->rejection.text,
                       b->rejection.text_len));
}

static void check_flip(const uint8_t *value, size_t len, const struct place *place, size_t bit)
{
    uint8_t *flipped = exact_copy(value, len);
    flipped[bit / 8 % len] ^= (uint8_t)(1 << bit % 8);
    struct record r;
    const char *what = NULL;
    enum status status = record_read(flipped, len, place->queue, place->seq, &r, &what);
    ENSURE((status == STATUS_DAMAGED || status == STATUS_VERSION) && what);
    free(flipped);
}

static void check_round(const struct record *r, const struct place *place, size_t bit)
{
    size_t len;
    uint8_t *value = written(r, place, &len);
    struct record again;
    const char *what = NULL;
    ENSURE(record_read(value, len, place->queue, place->seq, &again, &what) == STATUS_OK);
    check_same(r, &again);
    ENSURE(record_read(value, len, place->queue, place->seq + 1, &again, &what) == STATUS_DAMAGED);
    check_flip(value, len, place, bit);
    free(value);
}

static void look_at_value(struct input *in, const struct place *place, bool make_right)
{
    uint8_t *value = exact_copy(in->at, in->left);
    if (make_right && in->left >= RECORD_HEAD_BYTES)
        seal(value, in->left, place);
    struct record r;
    const char *what = NULL;
    enum status status = record_read(value, in->left, place->queue, place->seq, &r, &what);
    ENSURE(status == STATUS_OK || what);
    if (status == STATUS_OK) {
        /* A text without a rejection is read over, and not written again. */
        size_t unwritten = r.is_rejected ? 0 : r.rejection.text_len;
        ENSURE(record_size(&r) + unwritten == in->left);
        if (r.parted)
            ENSURE(record_part_size(r.body_size, record_part_count(r.body_size)) > 0);
        check_round(&r, place, in->left);
    }
    free(value);
}

static struct iovec take(struct input *in, size_t len)
{
    size_t taken;
    const uint8_t *at = input_take(in, len, &taken);
    return (struct iovec){(void *)(uintptr_t)at, taken};
}

static void look_at_fields(struct input *in, const struct place *place)
{
    uint8_t flags = input_octet(in);
    struct record r = {.kind = flags & 1 ? RECORD_DECLARE : RECORD_PUBLISH,
                       .received_at_us = input_number(in, 8),
                       .is_rejected = flags & 2};
    r.method = take(in, input_octet(in));
    r.header = take(in, input_octet(in));
    if (r.is_rejected) {
        r.rejection.code = (uint16_t)input_number(in, 2);
        r.rejection.at_us = input_number(in, 8);
        struct iovec text = take(in, input_octet(in));
        r.rejection.text = text.iov_base;
        r.rejection.text_len = (uint16_t)text.iov_len;
    }
    size_t bit = (size_t)input_number(in, 2);
    r.parted = flags & 4;
    r.body_size = r.parted ? RECORD_INLINE_MAX + 1 + input_number(in, 5) : 0;
    if (!r.parted) {
        struct iovec body = take(in, RECORD_INLINE_MAX);
        r.body = body.iov_base;
        r.body_size = body.iov_len;
    }
    check_round(&r, place, bit);
}

static void look_at_part(struct input *in, const struct place *place)
{
    size_t bit = (size_t)input_number(in, 2);
    uint32_t part = input_octet(in);
    size_t len = RECORD_PART_CHECKSUM_BYTES + in->left;
    uint8_t *value = malloc(len);
    ENSURE(value);
    if (in->left > 0)
        memcpy(value + RECORD_PART_CHECKSUM_BYTES, in->at, in->left);
    record_part_seal(value, in->left, place->queue, place->seq, part);
    ENSURE(record_part_check(value, in->left, place->queue, place->seq, part));
    ENSURE(!record_part_check(value, in->left, place->queue, place->seq, part + 1));
    value[bit / 8 % len] ^= (uint8_t)(1 << bit % 8);
    ENSURE(!record_part_check(value, in->left, place->queue, place->seq, part));
    free(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    unsigned mode = input_octet(&in) % 4;
    struct place place = {.queue = (uint32_t)input_number(&in, 2), .seq = input_number(&in, 2)};
    if (mode < 2)
        look_at_value(&in, &place, mode == 1);
    else if (mode == 2)
        look_at_fields(&in, &place);
    else
        look_at_part(&in, &place);
    return 0;
}
