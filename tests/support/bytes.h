#pragma once

/* Builds wire bytes for tests, and random numbers that are the same in every run. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/frame.h"
#include "amqp/wire.h"
#include "base/assert.h"

struct bytes {
    uint8_t *data;
    size_t len, capacity;
};

static inline uint8_t *bytes_grow(struct bytes *b, size_t n)
{
    if (n > b->capacity - b->len) {
        b->capacity = (b->len + n) * 2;
        b->data = realloc(b->data, b->capacity);
        ENSURE(b->data);
    }
    b->len += n;
    return b->data + b->len - n;
}

static inline void bytes_free(struct bytes *b)
{
    free(b->data);
    *b = (struct bytes){0};
}

static inline void put_bytes(struct bytes *b, const void *from, size_t n)
{
    if (n > 0)
        memcpy(bytes_grow(b, n), from, n);
}

static inline void put8(struct bytes *b, unsigned v)
{
    *bytes_grow(b, 1) = (uint8_t)v;
}

static inline void put16(struct bytes *b, unsigned v)
{
    wire_put16(bytes_grow(b, 2), (uint16_t)v);
}

static inline void put32(struct bytes *b, uint32_t v)
{
    wire_put32(bytes_grow(b, 4), v);
}

static inline void put64(struct bytes *b, uint64_t v)
{
    wire_put64(bytes_grow(b, 8), v);
}

static inline void put_short_string(struct bytes *b, const char *text)
{
    put8(b, (unsigned)strlen(text));
    put_bytes(b, text, strlen(text));
}

static inline void put_long_string(struct bytes *b, const char *text)
{
    put32(b, (uint32_t)strlen(text));
    put_bytes(b, text, strlen(text));
}

/* A table or array: its length is written by the end. */
static inline size_t put_begin(struct bytes *b)
{
    put32(b, 0);
    return b->len;
}

static inline void put_end(struct bytes *b, size_t begin)
{
    wire_put32(b->data + begin - 4, (uint32_t)(b->len - begin));
}

static inline void put_frame(struct bytes *b, uint8_t type, uint16_t channel, const void *payload,
                             size_t len)
{
    put8(b, type);
    put16(b, channel);
    put32(b, (uint32_t)len);
    put_bytes(b, payload, len);
    put8(b, FRAME_END);
}

/* xorshift64* by its author's constants (S. Vigna, 2016). */
static inline uint64_t random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545F4914F6CDD1D);
}

static inline size_t random_below(uint64_t *state, size_t limit)
{
    return (size_t)(random_next(state) >> 11) % limit;
}

/* A field value of a random type, with tables and arrays in it to the given depth. */
static inline void put_random_value(struct bytes *b, uint64_t *random, unsigned depth)
{
    static const char types[] = "tbBsuIilLfdDSTVxFA";
    char type = types[random_below(random, depth > 0 ? 18 : 16)];
    put8(b, (unsigned)type);
    size_t begin = 0;
    switch (type) {
    case 't':
    case 'b':
    case 'B':
        put8(b, (unsigned)random_next(random));
        break;
    case 's':
    case 'u':
        put16(b, (unsigned)random_next(random));
        break;
    case 'I':
    case 'i':
        put32(b, (uint32_t)random_next(random));
        break;
    case 'f':
        put32(b, (uint32_t)random_next(random) & ~UINT32_C(0x40000000));
        break;
    case 'd':
        put64(b, random_next(random) & ~(UINT64_C(1) << 62));
        break;
    case 'D':
        put8(b, (unsigned)random_next(random) & 31);
        put32(b, (uint32_t)random_next(random));
        break;
    case 'l':
    case 'L':
    case 'T':
        put64(b, random_next(random));
        break;
    case 'S':
    case 'x':
        put_long_string(b, "text");
        break;
    case 'V':
        break;
    default:
        begin = put_begin(b);
        for (size_t n = random_below(random, 4); n > 0; n--) {
            if (type == 'F')
                put_short_string(b, "name");
            put_random_value(b, random, depth - 1);
        }
        put_end(b, begin);
    }
}

static inline void put_random_table(struct bytes *b, uint64_t *random, unsigned depth)
{
    size_t begin = put_begin(b);
    for (size_t n = random_below(random, 6); n > 0; n--) {
        put_short_string(b, "key");
        put_random_value(b, random, depth);
    }
    put_end(b, begin);
}

/* The fixed part of a content header payload. */
static inline void put_header(struct bytes *b, unsigned class_id, unsigned weight,
                              uint64_t body_size, unsigned flags)
{
    put16(b, class_id);
    put16(b, weight);
    put64(b, body_size);
    put16(b, flags);
}

/* A well-formed content header payload with a random choice of properties. */
static inline void put_random_header(struct bytes *b, uint64_t *random, uint64_t body_size)
{
    static const char fields[] = "ssF11ssss8ssss";
    unsigned flags = (unsigned)random_next(random) & 0xFFFC;
    put_header(b, 60, 0, body_size, flags);
    for (unsigned i = 0; i < sizeof fields - 1; i++) {
        if (!(flags & 0x8000 >> i))
            continue;
        if (fields[i] == 's')
            put_short_string(b, "property");
        else if (fields[i] == 'F')
            put_random_table(b, random, 3);
        else if (fields[i] == '1')
            put8(b, (unsigned)random_next(random));
        else
            put64(b, random_next(random));
    }
}
