#pragma once

#include <stdbool.h>

#include "amqp/method.h"

/* True if a peer's properties (server-properties or client-properties) have
 * capabilities.<name> = true. */
bool capability_find(const amqp_table_t *properties, const char *name);
/* The first number of a peer's "version", 0 if it does not tell one. */
unsigned capability_version(const amqp_table_t *properties);
