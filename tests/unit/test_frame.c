#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/bytes.h"
#include "amqp/frame.h"

static void partial_at_every_byte(void **state)
{
    (void)state;
    struct bytes b = {0};
    put_frame(&b, FRAME_METHOD, 0x1234, "payload", 7);
    struct frame frame;
    size_t need;
    for (size_t len = 0; len < b.len; len++) {
        /* A copy of exactly this size, so that a read beyond it is found. */
        uint8_t *cut = malloc(len + 1);
        memcpy(cut + 1, b.data, len);
        assert_int_equal(frame_scan(cut + 1, len, FRAME_MIN_SIZE, &frame, &need), FRAME_PARTIAL);
        assert_int_equal(need, len < FRAME_HEAD_BYTES ? FRAME_HEAD_BYTES : b.len);
        free(cut);
    }
    assert_int_equal(frame_scan(b.data, b.len, FRAME_MIN_SIZE, &frame, &need), FRAME_COMPLETE);
    assert_int_equal(frame.type, FRAME_METHOD);
    assert_int_equal(frame.channel, 0x1234);
    assert_int_equal(frame.payload_len, 7);
    assert_ptr_equal(frame.payload, b.data + FRAME_HEAD_BYTES);
    bytes_free(&b);
}

static enum frame_result scan_head(uint8_t type, uint16_t channel, uint32_t payload_len,
                                   uint32_t frame_max, size_t *need)
{
    uint8_t head[FRAME_HEAD_BYTES];
    struct frame frame;
    frame_put_head(head, type, channel, payload_len);
    return frame_scan(head, sizeof head, frame_max, &frame, need);
}

static void limit_and_type_are_checked_with_the_head(void **state)
{
    (void)state;
    size_t need;
    assert_int_equal(scan_head(FRAME_BODY, 1, 4096 - 8, 4096, &need), FRAME_PARTIAL);
    assert_int_equal(need, 4096);
    assert_int_equal(scan_head(FRAME_BODY, 1, 4096, 4096, &need), FRAME_PARTIAL);
    assert_int_equal(need, 4096 + FRAME_OVERHEAD_BYTES);
    assert_int_equal(scan_head(FRAME_BODY, 1, 4097, 4096, &need), FRAME_TOO_LARGE);
    assert_int_equal(scan_head(FRAME_BODY, 1, UINT32_MAX, UINT32_MAX, &need), FRAME_PARTIAL);
    assert_int_equal(scan_head(FRAME_BODY, 1, UINT32_MAX, 4096, &need), FRAME_TOO_LARGE);
    assert_int_equal(scan_head(FRAME_BODY, 1, UINT32_MAX, 0, &need), FRAME_PARTIAL);
    assert_true(need == (size_t)UINT32_MAX + FRAME_OVERHEAD_BYTES);
    for (unsigned type = 0; type < 256; type++) {
        bool known = type == 1 || type == 2 || type == 3 || type == 8;
        assert_int_equal(scan_head((uint8_t)type, 0, 10, 4096, &need),
                         known ? FRAME_PARTIAL : FRAME_BAD_TYPE);
    }
}

static void heartbeats_and_empty_frames(void **state)
{
    (void)state;
    static const uint8_t types[] = {FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT};
    for (size_t i = 0; i < sizeof types; i++) {
        for (size_t len = 0; len < 3; len++) {
            struct bytes b = {0};
            struct frame frame;
            size_t need;
            put_frame(&b, types[i], 0, "xy", len);
            assert_int_equal(frame_scan(b.data, b.len, 4096, &frame, &need), FRAME_COMPLETE);
            assert_int_equal(frame.type, types[i]);
            assert_int_equal(frame.payload_len, len);
            bytes_free(&b);
        }
    }
}

static void wrong_end_octet(void **state)
{
    (void)state;
    for (unsigned end = 0; end < 256; end++) {
        struct bytes b = {0};
        struct frame frame;
        size_t need;
        put_frame(&b, FRAME_BODY, 3, "abc", 3);
        b.data[b.len - 1] = (uint8_t)end;
        assert_int_equal(frame_scan(b.data, b.len, 0, &frame, &need),
                         end == FRAME_END ? FRAME_COMPLETE : FRAME_BAD_END);
        bytes_free(&b);
    }
}

static void wrap_and_set_channel(void **state)
{
    (void)state;
    uint8_t out[FRAME_OVERHEAD_BYTES + 3];
    memcpy(out + FRAME_HEAD_BYTES, "abc", 3);
    assert_int_equal(frame_wrap(out, FRAME_HEADER, 7, 3), sizeof out);
    frame_set_channel(out + FRAME_HEAD_BYTES, 0xBEEF);
    static const uint8_t expected[] = {2, 0xBE, 0xEF, 0, 0, 0, 3, 'a', 'b', 'c', 0xCE};
    assert_memory_equal(out, expected, sizeof expected);
}

/* What a reader does: bytes come in chunks, whole frames are taken from the front. */
static void read_in_chunks(const struct bytes *stream, uint64_t *random, struct bytes *seen)
{
    struct bytes held = {0};
    size_t taken = 0;
    for (size_t at = 0; at < stream->len;) {
        size_t chunk = 1 + random_below(random, random_below(random, 8) == 0 ? 5000 : 20);
        if (chunk > stream->len - at)
            chunk = stream->len - at;
        put_bytes(&held, stream->data + at, chunk);
        at += chunk;
        struct frame frame;
        size_t need;
        while (frame_scan(held.data + taken, held.len - taken, 4096, &frame, &need) ==
               FRAME_COMPLETE) {
            assert_int_equal(need, frame.payload_len + FRAME_OVERHEAD_BYTES);
            put_frame(seen, frame.type, frame.channel, frame.payload, frame.payload_len);
            taken += need;
        }
        assert_true(need > held.len - taken);
    }
    assert_int_equal(taken, stream->len);
    bytes_free(&held);
}

static void random_chunks_give_the_same_frames(void **state)
{
    (void)state;
    static const uint8_t types[] = {FRAME_METHOD, FRAME_HEADER, FRAME_BODY};
    uint64_t random = 42;
    uint8_t payload[4096 - FRAME_OVERHEAD_BYTES];
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)random_next(&random);
    struct bytes stream = {0};
    for (unsigned i = 0; i < 200; i++)
        put_frame(&stream, types[i % 3], (uint16_t)i, payload,
                  random_below(&random, i % 5 ? 40 : sizeof payload + 1));
    for (unsigned round = 0; round < 10; round++) {
        struct bytes seen = {0};
        read_in_chunks(&stream, &random, &seen);
        assert_int_equal(seen.len, stream.len);
        assert_memory_equal(seen.data, stream.data, stream.len);
        bytes_free(&seen);
    }
    bytes_free(&stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(partial_at_every_byte),
        cmocka_unit_test(limit_and_type_are_checked_with_the_head),
        cmocka_unit_test(heartbeats_and_empty_frames),
        cmocka_unit_test(wrong_end_octet),
        cmocka_unit_test(wrap_and_set_channel),
        cmocka_unit_test(random_chunks_give_the_same_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
