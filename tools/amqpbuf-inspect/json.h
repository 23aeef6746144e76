#pragma once

/* Records as JSON (RFC 8259). AMQP has more kinds of values than JSON; what each becomes is
 * written down in docs/man/amqpbuf-inspect.1. */

#include <jansson.h>

#include "visit.h"

/* The object of `dump`; `body`: with the body, which the record must have then. NULL if the
 * properties cannot be read. The caller owns it. */
json_t *json_record(const struct item *, bool body);

/* A string if the bytes are UTF-8 without NUL, else {"base64": ...}. */
json_t *json_bytes(const void *bytes, size_t len);
json_t *json_field(const amqp_field_value_t *);
json_t *json_table(const amqp_table_t *);
/* RFC 3339; the number itself if the year has more than four digits. */
json_t *json_moment(uint64_t at_us);

/* Writes it and a newline, takes over the reference. `flags` are jansson's. Characters that could
 * steer a terminal are written as \uNNNN. */
void json_output(json_t *, size_t flags);
