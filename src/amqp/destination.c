#include "amqp/destination.h"

#include <xxhash.h>

/* Its method payload (1.8.3.7): 4 octets of numbers, 2 reserved ones, exchange and routing key as
 * short strings, one of bits. Both strings are hashed with their lengths, so that no two names run
 * into each other. */
enum { NAMES_AT = 6, BITS_BYTES = 1 };

uint64_t destination_of(const uint8_t *method, size_t len)
{
    if (len < NAMES_AT + BITS_BYTES)
        return 1;
    uint64_t hash = XXH3_64bits(method + NAMES_AT, len - NAMES_AT - BITS_BYTES);
    return hash ? hash : 1;
}
