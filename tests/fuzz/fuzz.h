#pragma once

/* What the fuzz targets share. A target reads its input as numbers and runs of bytes, calls what it
 * looks at, and states with ENSURE what must hold of the answer. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

/* libFuzzer's entry points; the first is called once for each input and returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

struct input {
    const uint8_t *at;
    size_t left; /* bytes */
};

/* 0 when the input is used up. */
static inline uint8_t input_octet(struct input *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->at++;
}

/* Big-endian, `bytes` of them. */
static inline uint64_t input_number(struct input *in, unsigned bytes)
{
    uint64_t number = 0;
    while (bytes-- > 0)
        number = number << 8 | input_octet(in);
    return number;
}

/* The next `len` bytes, or as many as there are: *taken says. */
static inline const uint8_t *input_take(struct input *in, size_t len, size_t *taken)
{
    *taken = len < in->left ? len : in->left;
    const uint8_t *at = in->at;
    in->at += *taken;
    in->left -= *taken;
    return at;
}

/* A copy in memory of its own size, so that a sanitizer sees what goes beyond it. free() it. */
static inline uint8_t *exact_copy(const void *from, size_t len)
{
    uint8_t *copy = malloc(len > 0 ? len : 1);
    ENSURE(copy);
    if (len > 0)
        memcpy(copy, from, len);
    return copy;
}

static inline bool bytes_equal(const void *a, size_t a_len, const void *b, size_t b_len)
{
    return a_len == b_len && (a_len == 0 || memcmp(a, b, a_len) == 0);
}
