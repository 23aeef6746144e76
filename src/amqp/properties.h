#pragma once

/* The properties of a publish, taken apart for people and for JSON. Off the hot path. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqp/librabbitmq.h"

struct properties {
    amqp_pool_t pool;
    amqp_basic_properties_t fields; /* fields._flags says which are there */
    uint64_t body_size;             /* bytes, as the content header says */
};

/* Decodes a content header payload, which must outlive `properties`. False if header_check
 * refuses it or memory is short; then there is nothing to deinit. */
bool properties_decode(struct properties *, const uint8_t *header, size_t len);
void properties_deinit(struct properties *);

/* Calls `visit` for each property that is there, in the order of the specification, named as in
 * JSON ("content_type", "headers"), as a field value of the kind that a table would give it:
 * AMQP_FIELD_KIND_UTF8 for short strings (not terminated, and not always UTF-8), _TABLE for
 * headers, _U8 for delivery_mode and priority, _TIMESTAMP for timestamp.
 *
 * Values within headers: kind 'L' (AMQP_FIELD_KIND_U64) stands in value.u64 but RabbitMQ reads it
 * as signed, so it is printed from value.i64 (use property_integer). Floats are finite, and tables
 * no deeper than TABLE_DEPTH_MAX. */
typedef void (*property_visit)(void *arg, const char *name, const amqp_field_value_t *);
void properties_each(const struct properties *, property_visit visit, void *arg);

/* True if the value is an integer of any width, and gives it as RabbitMQ reads it. A timestamp
 * (unsigned seconds) is none. */
bool property_integer(const amqp_field_value_t *, int64_t *integer);
