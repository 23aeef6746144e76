#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqp/method.h"

/* True if a peer's properties (server-properties or client-properties) have
 * capabilities.<name> = true. */
bool capability_find(const amqp_table_t *properties, const char *name);
/* A client's properties as the proxy passes them on to RabbitMQ: with what it has to be told itself
 * (connection.blocked, and why a login is refused), whatever its client understands. `properties`
 * is a well-formed table with its length in front; so is the result, which is to be freed. */
uint8_t *capability_announce(const uint8_t *properties, size_t *len);
/* The first number of a peer's "version", 0 if it does not tell one. */
unsigned capability_version(const amqp_table_t *properties);
