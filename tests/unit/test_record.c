/* Records and parts as bytes: what docs/spool-format.md says, held to the letter. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "spool/record.h"

static struct iovec text(const char *bytes)
{
    return (struct iovec){(void *)(uintptr_t)bytes, strlen(bytes)};
}

static struct record publish_of(uint64_t body_size)
{
    return (struct record){.kind = RECORD_PUBLISH,
                           .received_at_us = 0x0102030405060708,
                           .method = text("mm"),
                           .header = text("hhh"),
                           .body_size = body_size};
}

static struct record rejected_of(uint64_t body_size)
{
    struct record r = publish_of(body_size);
    r.is_rejected = true;
    r.rejection = (struct rejection){
        .code = 312, .text = "NO_ROUTE", .text_len = 8, .at_us = 0x1112131415161718};
    return r;
}

/* A value in memory of its own size, so that a sanitizer sees what goes beyond it. */
static uint8_t *written(const struct record *r, uint32_t queue, uint64_t seq, const char *body,
                        size_t *len)
{
    struct iovec iov = text(body);
    *len = record_size(r);
    uint8_t *value = malloc(*len);
    assert_non_null(value);
    record_write(value, queue, seq, r, &iov, 1);
    return value;
}

static bool is_found(const uint8_t *value, size_t len, uint32_t queue, uint64_t seq)
{
    struct record r;
    const char *what = NULL;
    enum status status = record_read(value, len, queue, seq, &r, &what);
    if (status == STATUS_OK)
        return false;
    assert_true(status == STATUS_DAMAGED || status == STATUS_VERSION);
    assert_non_null(what);
    return true;
}

/* ---- golden bytes ---- */

static void test_golden_record(void **state)
{
    (void)state;
    static const uint8_t golden[] = {
        'a',  'b',  1,    1,    0,    0,    0,    0,    /* magic, version, kind, flags */
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, /* received */
        0,    0,    0,    2,    0,    0,    0,    3,    /* lengths of method and header */
        0,    0,    0,    0,    0,    0,    0,    4,    /* of the body */
        0,    0,    0,    0,    0,    0,    0,    0,    /* no rejection */
        0,    0,    0,    0,    0,    0,    0,    0,    /* */
        0x9B, 0x4B, 0xED, 0x25, 0x6F, 0xC2, 0xCB, 0x49, /* checksum */
        'm',  'm',  'h',  'h',  'h',  'b',  'o',  'd',  'y',
    };
    struct record r = publish_of(4);
    size_t len;
    uint8_t *value = written(&r, 7, 9, "body", &len);
    assert_int_equal(len, sizeof golden);
    assert_memory_equal(value, golden, len);
    free(value);
}

static void test_golden_rejected(void **state)
{
    (void)state;
    static const uint8_t golden[] = {
        'a',  'b',  1,    1,    2,    0,    0,    0,    /* flag: rejected */
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, /* received */
        0,    0,    0,    2,    0,    0,    0,    3,    /* lengths of method and header */
        0,    0,    0,    0,    0,    0,    0,    4,    /* of the body */
        0x01, 0x38, 0,    8,    0,    0,    0,    0,    /* code, length of the text */
        0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, /* when */
        0x20, 0x34, 0x16, 0x4D, 0x9B, 0x46, 0x66, 0x0A, /* checksum */
        'm',  'm',  'h',  'h',  'h',  'b',  'o',  'd',  'y', 'N', 'O', '_', 'R', 'O', 'U', 'T', 'E',
    };
    struct record r = rejected_of(4);
    size_t len;
    uint8_t *value = written(&r, 7, 9, "body", &len);
    assert_int_equal(len, sizeof golden);
    assert_memory_equal(value, golden, len);
    free(value);
}

static void test_golden_declare(void **state)
{
    (void)state;
    static const uint8_t golden[] = {
        'a',  'b',  1,    2,    0,    0,    0,    0,    /* kind: declare */
        0,    0,    0,    0,    0,    0,    0,    5,    /* received */
        0,    0,    0,    2,    0,    0,    0,    0,    /* a method alone */
        0,    0,    0,    0,    0,    0,    0,    0,    /* */
        0,    0,    0,    0,    0,    0,    0,    0,    /* */
        0,    0,    0,    0,    0,    0,    0,    0,    /* */
        0xB8, 0x2C, 0xB8, 0x03, 0x1A, 0x5A, 0xA8, 0xF3, /* checksum */
        'm',  'm',
    };
    struct record r = {.kind = RECORD_DECLARE, .received_at_us = 5, .method = text("mm")};
    uint8_t value[sizeof golden];
    assert_int_equal(record_size(&r), sizeof golden);
    record_write(value, 1, 1, &r, NULL, 0);
    assert_memory_equal(value, golden, sizeof golden);
}

/* The head of a message whose body is in parts, and a part. */
static void test_golden_parts(void **state)
{
    (void)state;
    static const uint8_t golden[] = {
        'a',  'b',  1,    1,    1,    0,    0,    0,    /* flag: in parts */
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, /* received */
        0,    0,    0,    2,    0,    0,    0,    3,    /* lengths of method and header */
        0,    0,    0,    0,    0,    0,    0x0C, 0x01, /* of the body: 3073 */
        0,    0,    0,    0,    0,    0,    0,    0,    /* */
        0,    0,    0,    0,    0,    0,    0,    0,    /* */
        0x73, 0x8D, 0x96, 0x3C, 0xB2, 0x40, 0x5E, 0x6B, /* checksum */
        'm',  'm',  'h',  'h',  'h',
    };
    static const uint8_t golden_part[] = {0xFA, 0x2F, 0x1A, 0xDA, 0xD6, 0xF6,
                                          0x4C, 0xE2, 'b',  'o',  'd',  'y'};
    struct record r = publish_of(3073);
    uint8_t value[sizeof golden],
        part[sizeof golden_part] = {0, 0, 0, 0, 0, 0, 0, 0, 'b', 'o', 'd', 'y'};
    assert_int_equal(record_size(&r), sizeof golden);
    record_write(value, 7, 9, &r, NULL, 0);
    assert_memory_equal(value, golden, sizeof golden);
    record_part_seal(part, 4, 7, 9, 2);
    assert_memory_equal(part, golden_part, sizeof part);
}

static void test_golden_keys(void **state)
{
    (void)state;
    static const uint8_t golden[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    uint8_t key[RECORD_KEY_BYTES], part_key[RECORD_PART_KEY_BYTES];
    record_key(key, 0x01020304, 0x05060708090A0B0C);
    record_part_key(part_key, 0x01020304, 0x05060708090A0B0C, 0x0D0E0F10);
    assert_memory_equal(key, golden, sizeof key);
    assert_memory_equal(part_key, golden, sizeof part_key);
    assert_int_equal(record_key_queue(key), 0x01020304);
    assert_int_equal(record_key_queue(part_key), 0x01020304);
    assert_int_equal(record_key_seq(key), 0x05060708090A0B0C);
    assert_int_equal(record_key_seq(part_key), 0x05060708090A0B0C);
}

/* ---- there and back ---- */

static void test_read_back(void **state)
{
    (void)state;
    struct record in = rejected_of(4), out;
    const char *what = NULL;
    size_t len;
    uint8_t *value = written(&in, 7, 9, "body", &len);
    assert_int_equal(record_read(value, len, 7, 9, &out, &what), STATUS_OK);
    assert_int_equal(out.kind, RECORD_PUBLISH);
    assert_false(out.parted);
    assert_int_equal(out.received_at_us, in.received_at_us);
    assert_int_equal(out.method.iov_len, 2);
    assert_memory_equal(out.method.iov_base, "mm", 2);
    assert_int_equal(out.header.iov_len, 3);
    assert_memory_equal(out.header.iov_base, "hhh", 3);
    assert_int_equal(out.body_size, 4);
    assert_memory_equal(out.body, "body", 4);
    assert_true(out.is_rejected);
    assert_int_equal(out.rejection.code, 312);
    assert_int_equal(out.rejection.text_len, 8);
    assert_memory_equal(out.rejection.text, "NO_ROUTE", 8);
    assert_int_equal(out.rejection.at_us, in.rejection.at_us);
    free(value);
}

static void test_body_in_pieces(void **state)
{
    (void)state;
    struct iovec pieces[] = {text("b"), {NULL, 0}, text("od"), text(""), text("y")};
    struct record r = publish_of(4);
    size_t len;
    uint8_t *whole = written(&r, 1, 1, "body", &len), *value = malloc(len);
    assert_non_null(value);
    record_write(value, 1, 1, &r, pieces, 5);
    assert_memory_equal(value, whole, len);
    free(value);
    free(whole);
}

static void test_longest_inline_body(void **state)
{
    (void)state;
    char body[RECORD_INLINE_MAX + 1];
    memset(body, 'x', sizeof body);
    body[RECORD_INLINE_MAX] = 0;
    struct record in = publish_of(RECORD_INLINE_MAX), out;
    const char *what;
    size_t len;
    uint8_t *value = written(&in, 1, 1, body, &len);
    assert_int_equal(record_read(value, len, 1, 1, &out, &what), STATUS_OK);
    assert_false(out.parted);
    assert_memory_equal(out.body, body, RECORD_INLINE_MAX);
    free(value);

    in = publish_of(RECORD_INLINE_MAX + 1);
    value = written(&in, 1, 1, "", &len);
    assert_int_equal(record_read(value, len, 1, 1, &out, &what), STATUS_OK);
    assert_true(out.parted);
    assert_null(out.body);
    assert_int_equal(out.body_size, RECORD_INLINE_MAX + 1);
    free(value);
}

/* More parts than a part's number can count. */
static void test_impossible_size(void **state)
{
    (void)state;
    uint64_t most = (uint64_t)UINT32_MAX * RECORD_PART_BYTES;
    uint64_t sizes[] = {most, most + 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct record in = publish_of(sizes[i]), out;
        const char *what = NULL;
        size_t len;
        uint8_t *value = written(&in, 1, 1, "", &len);
        enum status status = record_read(value, len, 1, 1, &out, &what);
        assert_int_equal(status, sizes[i] > most ? STATUS_DAMAGED : STATUS_OK);
        free(value);
    }
}

static void test_part_sizes(void **state)
{
    (void)state;
    assert_int_equal(RECORD_PART_BYTES, 4072); /* docs/spool-format.md */
    assert_int_equal(record_part_count(1), 1);
    assert_int_equal(record_part_count(4072), 1);
    assert_int_equal(record_part_count(4073), 2);
    assert_int_equal(record_part_size(4072, 1), 4072);
    assert_int_equal(record_part_size(4073, 1), 4072);
    assert_int_equal(record_part_size(4073, 2), 1);
    for (uint64_t size = RECORD_INLINE_MAX + 1; size < 5 * RECORD_PART_BYTES; size += 61) {
        uint64_t sum = 0;
        for (uint32_t part = 1; part <= record_part_count(size); part++)
            sum += record_part_size(size, part);
        assert_int_equal(sum, size);
    }
}

/* ---- damage ---- */

static void assert_every_flip_is_found(const struct record *r, const char *body)
{
    size_t len;
    uint8_t *value = written(r, 7, 9, body, &len);
    assert_false(is_found(value, len, 7, 9));
    for (size_t at = 0; at < len; at++)
        for (unsigned flip = 1; flip < 256; flip++) {
            value[at] ^= (uint8_t)flip;
            if (!is_found(value, len, 7, 9))
                fail_msg("byte %zu flipped by %02x is not found", at, flip);
            value[at] ^= (uint8_t)flip;
        }
    free(value);
}

static void test_flips_in_records(void **state)
{
    (void)state;
    struct record inline_record = publish_of(4), rejected = rejected_of(4),
                  parted = publish_of(100000), parted_rejected = rejected_of(100000),
                  declare = {.kind = RECORD_DECLARE, .method = text("mm")};
    assert_every_flip_is_found(&inline_record, "body");
    assert_every_flip_is_found(&rejected, "body");
    assert_every_flip_is_found(&parted, "");
    assert_every_flip_is_found(&parted_rejected, "");
    assert_every_flip_is_found(&declare, "");
}

static void test_flips_in_a_part(void **state)
{
    (void)state;
    uint8_t part[RECORD_PART_CHECKSUM_BYTES + 100];
    memset(part, 'x', sizeof part);
    record_part_seal(part, 100, 7, 9, 1);
    assert_true(record_part_check(part, 100, 7, 9, 1));
    for (size_t at = 0; at < sizeof part; at++)
        for (unsigned flip = 1; flip < 256; flip++) {
            part[at] ^= (uint8_t)flip;
            assert_false(record_part_check(part, 100, 7, 9, 1));
            part[at] ^= (uint8_t)flip;
        }
}

static void test_other_lengths(void **state)
{
    (void)state;
    struct record r = rejected_of(4);
    size_t len;
    uint8_t *value = written(&r, 7, 9, "body", &len);
    for (size_t shorter = 0; shorter < len; shorter++) {
        uint8_t *cut = malloc(shorter + 1);
        assert_non_null(cut);
        memcpy(cut, value, shorter);
        assert_true(is_found(cut, shorter, 7, 9));
        free(cut);
    }
    uint8_t *longer = calloc(1, len + 1);
    assert_non_null(longer);
    memcpy(longer, value, len);
    assert_true(is_found(longer, len + 1, 7, 9));
    free(longer);
    free(value);
}

static void test_wrong_place(void **state)
{
    (void)state;
    struct record r = publish_of(4);
    size_t len;
    uint8_t *value = written(&r, 7, 9, "body", &len);
    assert_false(is_found(value, len, 7, 9));
    assert_true(is_found(value, len, 8, 9));
    assert_true(is_found(value, len, 7, 10));
    free(value);

    uint8_t part[12] = {0};
    record_part_seal(part, 4, 7, 9, 1);
    assert_true(record_part_check(part, 4, 7, 9, 1));
    assert_false(record_part_check(part, 4, 8, 9, 1));
    assert_false(record_part_check(part, 4, 7, 10, 1));
    assert_false(record_part_check(part, 4, 7, 9, 2));
    assert_false(record_part_check(part, 3, 7, 9, 1));
}

static void test_newer_version(void **state)
{
    (void)state;
    struct record r = publish_of(4), out;
    const char *what = NULL;
    size_t len;
    uint8_t *value = written(&r, 7, 9, "body", &len);
    value[2] = RECORD_VERSION + 1;
    assert_int_equal(record_read(value, len, 7, 9, &out, &what), STATUS_VERSION);
    assert_string_equal(what, "written by a newer version");
    free(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_record),    cmocka_unit_test(test_golden_rejected),
        cmocka_unit_test(test_golden_declare),   cmocka_unit_test(test_golden_parts),
        cmocka_unit_test(test_golden_keys),      cmocka_unit_test(test_read_back),
        cmocka_unit_test(test_body_in_pieces),   cmocka_unit_test(test_longest_inline_body),
        cmocka_unit_test(test_impossible_size),  cmocka_unit_test(test_part_sizes),
        cmocka_unit_test(test_flips_in_records), cmocka_unit_test(test_flips_in_a_part),
        cmocka_unit_test(test_other_lengths),    cmocka_unit_test(test_wrong_place),
        cmocka_unit_test(test_newer_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
