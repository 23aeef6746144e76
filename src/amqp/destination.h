#pragma once

/* A destination is an exchange and a routing key, known by its hash. */

#include <stddef.h>
#include <stdint.h>

/* Which destination the method payload of a well-formed basic.publish names; never 0. */
uint64_t destination_of(const uint8_t *method, size_t len);
/* The same from the names, which are short strings. */
uint64_t destination_of_names(const uint8_t *exchange, uint8_t exchange_len,
                              const uint8_t *routing_key, uint8_t routing_key_len);
