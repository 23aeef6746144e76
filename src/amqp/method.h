#pragma once

/* Methods: librabbitmq's codec (amqp_framing.h has the structs and the AMQP_..._METHOD numbers,
 * class << 16 | method), wrapped so that a whole payload must decode and a whole frame comes out. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <amqp.h>
#include <amqp_framing.h>

/* Class and method number of a method payload, 0 if it is shorter than four bytes. */
amqp_method_number_t method_number(const uint8_t *payload, size_t len);

/* Reusable memory for decoding, so that a method costs no malloc of its own. */
struct method_arena {
    amqp_pool_t pool;
};
void method_arena_init(struct method_arena *);
void method_arena_deinit(struct method_arena *);

/* Decodes a method payload. *decoded points into the arena and into `payload`, until the next
 * decode with this arena. False if the method is unknown, a field runs over the end, bytes are
 * left over, or a table is malformed (RabbitMQ: 502). */
bool method_decode(struct method_arena *, const uint8_t *payload, size_t len,
                   amqp_method_number_t *number, void **decoded);

/* Encodes a whole method frame into out[0..capacity). Returns its size, 0 if it does not fit. */
size_t method_encode(uint8_t *out, size_t capacity, uint16_t channel, amqp_method_number_t,
                     const void *decoded);

/* True if RabbitMQ knows the method and a client may send it. */
bool method_known(amqp_method_number_t);
/* "basic.publish", or "?" */
const char *method_name(amqp_method_number_t);

/* basic.publish taken apart without the codec: it is the hot path. False if it is malformed. */
struct publish {
    const uint8_t *exchange, *routing_key; /* not terminated */
    uint8_t exchange_len, routing_key_len;
    bool mandatory, immediate;
};
bool publish_parse(const uint8_t *payload, size_t len, struct publish *);

static inline amqp_bytes_t bytes_of(const char *text)
{
    return amqp_cstring_bytes(text);
}
