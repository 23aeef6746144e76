#pragma once

/* Publishes that differ from the one before on their channel in their body alone. What was decided
 * for that one holds for them as long as there is room: they are looked at in one pass, and those
 * that lie behind each other go to RabbitMQ as one run of bytes. */

#include <stddef.h>
#include <stdint.h>

#include "base/slab.h"

struct client;

/* Takes the publishes of this kind at the start of data[0..len), which lies in the slab. Returns
 * how many bytes they are; 0: what stands there has to be decided for itself, or is not whole. */
size_t alike_take(struct client *, struct slab *, uint8_t *data, size_t len);
