#pragma once

/* A basic.return, and the message that it is about: RabbitMQ names neither tag nor number, so it is
 * known again by exchange, routing key and content header. Messages that are equal in these are
 * routed alike, and each of them is returned: who has found one does not take it for the next. If
 * none has that header, RabbitMQ may have changed it meanwhile (it takes BCC out, interceptors add
 * to it): then the size of the body is what is left of it. */

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
/* True if it may be about this publish, which is at hand: by its header as it was sent, or by the
 * size of its body. False if that is not mandatory. */
bool returned_is_message(const struct returned *, const struct message *,
                         const struct frame *header, bool as_sent);
/* Of the body, as the header says; 0 if the header is cut short. */
uint64_t returned_body_size(const struct frame *header);
/* Where it went (amqp/destination.h). */
uint64_t returned_destination(const struct returned *);
/* True if it is about what went to this exchange and routing key; `method` is a method payload. */
bool returned_names(const struct returned *, const uint8_t *method, size_t method_len);
