#pragma once

/* A basic.return, and the message that it is about: RabbitMQ names neither tag nor number, so it is
 * known again by exchange, routing key and content header. Messages that are equal in these are
 * routed alike. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqp/content.h"
#include "amqp/frame.h"

struct returned {
    bool active; /* its method came, its content header is due */
    uint16_t code;
    char text[256];
    uint8_t exchange_len, routing_key_len;
    uint8_t exchange[255], routing_key[255];
};

/* Takes the method apart. */
void returned_begin(struct returned *, const struct frame *);
/* What a mandatory publish is known again by (free), made of its method payload and, behind the
 * next frame's head, its content header payload; NULL if it is not mandatory. */
uint8_t *returned_key(const uint8_t *method, size_t method_len, size_t header_len);
/* The same for a publish that is at hand; false if it is not mandatory. */
bool returned_is_message(const struct returned *, const struct message *,
                         const struct frame *header);
/* True if the return is about a publish with this key. */
bool returned_is(const struct returned *, const uint8_t *key, size_t method_len, size_t header_len,
                 const struct frame *header);
