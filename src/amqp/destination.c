#include "amqp/destination.h"

#include <string.h>

#include <xxhash.h>

/* Its method payload (1.8.3.7): 4 octets of numbers, 2 reserved ones, exchange and routing key as
 * short strings, one of bits. Both strings are hashed with their lengths, so that no two names run
 * into each other. */
enum { NAMES_AT = 6, BITS_BYTES = 1 };

static uint64_t hash_of(const uint8_t *names, size_t len)
{
    uint64_t hash = XXH3_64bits(names, len);
    return hash ? hash : 1;
}

uint64_t destination_of(const uint8_t *method, size_t len)
{
    if (len < NAMES_AT + BITS_BYTES)
        return 1;
    return hash_of(method + NAMES_AT, len - NAMES_AT - BITS_BYTES);
}

uint64_t destination_of_names(const uint8_t *exchange, uint8_t exchange_len,
                              const uint8_t *routing_key, uint8_t routing_key_len)
{
    uint8_t names[2 * (1 + UINT8_MAX)], *at = names;
    *at++ = exchange_len;
    memcpy(at, exchange, exchange_len);
    at += exchange_len;
    *at++ = routing_key_len;
    memcpy(at, routing_key, routing_key_len);
    return hash_of(names, (size_t)(at - names) + routing_key_len);
}
