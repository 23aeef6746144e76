#pragma once

#include <stdbool.h>

#include "amqp/method.h"

/* True if a peer's properties (server-properties or client-properties) have
 * capabilities.<name> = true. */
bool capability_find(const amqp_table_t *properties, const char *name);
