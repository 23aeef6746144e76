#pragma once

/* Records as JSON (RFC 8259). AMQP has more kinds of values than JSON; what each becomes is
 * written down in docs/man/amqpbuf-inspect.1. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "amqp/librabbitmq.h"
#include "amqpbuf/spool_reader.h"

struct routing;

/* The object of `amqpbuf-inspect dump`; `body`: with the body, which the record must have then.
 * `routing` is what routing_decode says of the record. NULL if the properties cannot be read. The
 * caller owns it. */
json_t *json_record(const char *user, const char *vhost, const struct reader_record *,
                    const struct routing *, bool body);

/* A string if the bytes are UTF-8 without NUL, else {"base64": ...}. */
json_t *json_bytes(const void *bytes, size_t len);
json_t *json_field(const amqp_field_value_t *);
json_t *json_table(const amqp_table_t *);
/* RFC 3339; the number itself if the year has more than four digits. */
json_t *json_moment(uint64_t at_us);

/* Hands it and a newline to `write` piece by piece, and takes over the reference. `flags` are
 * jansson's. Characters that could steer a terminal are written as \uNNNN. False if the last of
 * the writes was. */
bool json_write(json_t *, size_t flags, bool (*write)(void *arg, const void *bytes, size_t len),
                void *arg);
