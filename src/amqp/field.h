#pragma once

/* One field of a basic content header, found without decoding the others: octets and short strings
 * up to `expiration`, in the order of AMQP 0-9-1, 4.2.6.1. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cursor;

/* Values are the property flags. */
enum field {
    FIELD_DELIVERY_MODE = 1 << 12,
    FIELD_PRIORITY = 1 << 11,
    FIELD_CORRELATION_ID = 1 << 10,
    FIELD_REPLY_TO = 1 << 9,
    FIELD_EXPIRATION = 1 << 8,
};

/* True if the header, a well-formed payload, has the field; the cursor then stands at its value. */
bool field_find(const uint8_t *header, size_t len, enum field, struct cursor *);
/* reply_to is the name by which RabbitMQ answers on the publisher's own channel. */
bool field_is_direct_reply(const uint8_t *header, size_t len);
/* delivery_mode 2; RabbitMQ takes all other values, and none, as transient. */
bool field_is_persistent(const uint8_t *header, size_t len);
