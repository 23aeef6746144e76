#pragma once

/* Methods: librabbitmq's codec (amqp_framing.h has the structs and the AMQP_..._METHOD numbers,
 * class << 16 | method), wrapped so that a whole payload must decode and a whole frame comes out.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqp/librabbitmq.h"
#include "amqp/wire.h"

/* Class and method number of a method payload, 0 if it is shorter than four bytes. */
static inline amqp_method_number_t method_number(const uint8_t *payload, size_t len)
{
    return len < 4 ? 0 : wire_get32(payload);
}

/* Reusable memory for decoding, so that a method costs no malloc of its own. */
struct method_arena {
    amqp_pool_t pool;
};
void method_arena_init(struct method_arena *);
void method_arena_deinit(struct method_arena *);

/* connection.update-secret and its answer, RabbitMQ's extension that librabbitmq knows since 0.12.
 */
#ifndef AMQP_CONNECTION_UPDATE_SECRET_METHOD
#define AMQP_CONNECTION_UPDATE_SECRET_METHOD    ((amqp_method_number_t)0x000A0046)
#define AMQP_CONNECTION_UPDATE_SECRET_OK_METHOD ((amqp_method_number_t)0x000A0047)
typedef struct amqp_connection_update_secret_t_ {
    amqp_bytes_t new_secret; /* a long string */
    amqp_bytes_t reason;     /* a short string */
} amqp_connection_update_secret_t;
typedef struct amqp_connection_update_secret_ok_t_ {
    char dummy;
} amqp_connection_update_secret_ok_t;
#endif

/* True if a method payload is one that RabbitMQ can read: a method it knows, every field within
 * the payload, nothing left over, tables that table_check accepts, and UTF-8 in short strings
 * (which RabbitMQ does not ask of the methods that carry content). Allocates nothing: for methods
 * that are passed on as they came. */
bool method_check(const uint8_t *payload, size_t len);

/* Why method_check refuses a method that RabbitMQ knows, as RabbitMQ reads it: first whether the
 * fields fill the payload, then what is in them, in their order. */
enum method_fault {
    METHOD_FINE,      /* or unknown */
    METHOD_CUT,       /* the fields end before the payload or behind it: 501 */
    METHOD_BAD_TEXT,  /* a short string is no UTF-8: 501, and no method is named */
    METHOD_BAD_TABLE, /* table_check refuses it; it ends a process of RabbitMQ: 502 here */
};
enum method_fault method_find_fault(const uint8_t *payload, size_t len);

/* Decodes a client's method payload. *decoded points into the arena and into `payload`, until the
 * next decode with this arena. False if method_check refuses it, or memory is short. */
bool method_decode(struct method_arena *, const uint8_t *payload, size_t len,
                   amqp_method_number_t *number, void **decoded);

/* The same for what RabbitMQ sends. Its short strings may hold any bytes: it quotes names that it
 * was given, and cuts a text at 255 bytes, in the middle of a character too. */
bool method_decode_reply(struct method_arena *, const uint8_t *payload, size_t len,
                         amqp_method_number_t *number, void **decoded);

/* Encodes a whole method frame into out[0..capacity). Returns its size, 0 if it does not fit. */
size_t method_encode(uint8_t *out, size_t capacity, uint16_t channel, amqp_method_number_t,
                     const void *decoded);

/* True if RabbitMQ knows the method and a client may send it. What RabbitMQ answers with 503
 * although it can read it (channel.flow-ok, basic.cancel-ok: it never asks for them) is not. */
bool method_known(amqp_method_number_t);
/* True if a header and a body follow it, whoever may send it; false if it is unknown. */
bool method_carries_content(amqp_method_number_t);
/* True if RabbitMQ answers the method, once its no-wait bit is clear. */
bool method_is_answered(amqp_method_number_t);
/* Sets or clears the no-wait bit of a payload that method_check accepts, if its method has one.
 * Returns what it was. */
bool method_set_nowait(uint8_t *payload, size_t len, bool nowait);
/* "basic.publish", or "?" */
const char *method_name(amqp_method_number_t);

/* basic.publish taken apart without the codec: it is the hot path. False if it is malformed. */
struct publish {
    const uint8_t *exchange, *routing_key; /* not terminated */
    uint8_t exchange_len, routing_key_len;
    bool mandatory, immediate;
};
static inline bool publish_parse(const uint8_t *payload, size_t len, struct publish *publish)
{
    enum { NUMBER_BYTES = 4 };
    if (method_number(payload, len) != AMQP_BASIC_PUBLISH_METHOD)
        return false;
    struct cursor c = {.at = payload + NUMBER_BYTES, .end = payload + len};
    cursor_u16(&c); /* the ticket, of no meaning any more */
    publish->exchange_len = cursor_u8(&c);
    publish->exchange = cursor_take(&c, publish->exchange_len);
    publish->routing_key_len = cursor_u8(&c);
    publish->routing_key = cursor_take(&c, publish->routing_key_len);
    uint8_t bits = cursor_u8(&c);
    publish->mandatory = bits & 1;
    publish->immediate = bits & 2;
    return !c.failed && c.at == c.end;
}

static inline amqp_bytes_t bytes_of(const char *text)
{
    return amqp_cstring_bytes(text);
}
