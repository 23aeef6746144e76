#pragma once

#include <stdlib.h>

#include "base/assert.h"

/* Grows a small array that control structures keep; when memory is short for that, the process
 * ends. Message-sized buffers are never taken this way. */
static inline void *memory_grow(void *array, size_t count, size_t size)
{
    void *grown = reallocarray(array, count, size);
    ENSURE(grown);
    return grown;
}
