#pragma once

/* Field tables and arrays (section 4.2.5.5) with the field types of RabbitMQ 3.10, which differ
 * from the specification's (https://www.rabbitmq.com/amqp-0-9-1-errata.html, section 3):
 * t b B s u I i l L f d D S A T F V x. RabbitMQ cannot read a float that is not finite; it takes
 * its channel down, so such a table is malformed here. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqp/wire.h"

/* Tables and arrays within each other, the outermost included. RabbitMQ has no limit; this one
 * keeps the stack small in everything that walks a checked table. */
enum { TABLE_DEPTH_MAX = 100 };

/* True if the fields of a table at[0..len), without its length, are well formed. */
bool table_check(const uint8_t *at, size_t len);

/* Where the value of the first field with this name stands, with its kind in front; NULL: there is
 * none. The table is well formed. */
const uint8_t *table_find(const uint8_t *at, size_t len, const char *name);

/* Skips a table with its length; the cursor fails if the table is malformed. */
void cursor_skip_table(struct cursor *);
