#pragma once

/* The `expiration` property: milliseconds to live as a decimal text (RabbitMQ, "Per-Message TTL in
 * Publishers"). */

#include <stddef.h>
#include <stdint.h>

/* Copies a well-formed content header payload to `out` (len bytes) with its expiration lowered by
 * the time the message has waited, not below 0. Returns the length of the copy, which may be
 * shorter; 0, and nothing is written, if there is no expiration or it is not a number. */
size_t expiration_shorten(const uint8_t *header, size_t len, uint64_t waited_ms, uint8_t *out);
