#pragma once

/* AMQP frames for the benchmark's own programs: written by hand and looked at no further than
 * needed, so that they cost little beside what is measured. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    FRAME_METHOD = 1,
    FRAME_HEADER = 2,
    FRAME_BODY = 3,
    FRAME_MAX = 131072,
    METHOD_START = 10 << 16 | 10,
    METHOD_START_OK = 10 << 16 | 11,
    METHOD_TUNE = 10 << 16 | 30,
    METHOD_TUNE_OK = 10 << 16 | 31,
    METHOD_OPEN = 10 << 16 | 40,
    METHOD_OPEN_OK = 10 << 16 | 41,
    METHOD_CLOSE = 10 << 16 | 50,
    METHOD_CLOSE_OK = 10 << 16 | 51,
    METHOD_CHANNEL_OPEN = 20 << 16 | 10,
    METHOD_CHANNEL_OPEN_OK = 20 << 16 | 11,
    METHOD_CHANNEL_CLOSE = 20 << 16 | 40,
    METHOD_CHANNEL_CLOSE_OK = 20 << 16 | 41,
    METHOD_PUBLISH = 60 << 16 | 40,
    METHOD_ACK = 60 << 16 | 80,
    METHOD_SELECT = 85 << 16 | 10,
    METHOD_SELECT_OK = 85 << 16 | 11,
};

static inline uint8_t *put(uint8_t *at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    return at + bytes;
}

static inline uint64_t get(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value = value << 8 | at[i];
    return value;
}

static inline uint8_t *put_bytes(uint8_t *at, const void *bytes, size_t len)
{
    memcpy(at, bytes, len);
    return at + len;
}

/* A method frame with `len` bytes of arguments. */
static inline uint8_t *put_method(uint8_t *at, unsigned channel, uint32_t method, const void *args,
                                  size_t len)
{
    at = put(at, FRAME_METHOD, 1);
    at = put(at, channel, 2);
    at = put(at, 4 + len, 4);
    at = put(at, method, 4);
    at = put_bytes(at, args, len);
    return put(at, 0xCE, 1);
}

/* A whole publish to the default exchange, routing key "q"; body of `size` bytes in frames of at
 * most FRAME_MAX. */
static inline uint8_t *put_publish(uint8_t *at, unsigned channel, unsigned delivery_mode,
                                   size_t size)
{
    at = put_method(at, channel, METHOD_PUBLISH, "\0\0\0\1q\0", 6);
    at = put(at, FRAME_HEADER, 1);
    at = put(at, channel, 2);
    at = put(at, 15, 4);
    at = put(at, 60, 2);
    at = put(at, 0, 2);
    at = put(at, size, 8);
    at = put(at, 0x1000, 2);
    at = put(at, delivery_mode, 1);
    at = put(at, 0xCE, 1);
    while (size > 0) {
        size_t n = size < FRAME_MAX - 8 ? size : FRAME_MAX - 8;
        at = put(at, FRAME_BODY, 1);
        at = put(at, channel, 2);
        at = put(at, n, 4);
        memset(at, 'x', n);
        at = put(at + n, 0xCE, 1);
        size -= n;
    }
    return at;
}
