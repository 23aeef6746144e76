#pragma once

/* Methods that the proxy itself sends, to clients and to RabbitMQ. */

#include <stdbool.h>

#include "amqp/method.h"
#include "net/stream.h"

/* A method whose fields are numbers and short strings: it always fits a frame. */
void wire_send(struct stream *, uint16_t channel, amqp_method_number_t, const void *fields);
/* Any method. False, with nothing sent, if it does not fit the other side's frame_max. */
bool wire_send_within(struct stream *, uint32_t frame_max, uint16_t channel, amqp_method_number_t,
                      const void *fields);
/* A method without fields, or whose fields are all zero bits of `zeros` bytes. */
void wire_send_plain(struct stream *, uint16_t channel, amqp_method_number_t);
/* basic.ack or basic.nack of publishes; the hot path, without the codec. */
void wire_send_confirm(struct stream *, uint16_t channel, uint64_t tag, bool multiple, bool nack);
void wire_send_heartbeat(struct stream *);
/* connection.close or channel.close with `code` and `text`, naming the method that caused it. */
void wire_send_close_bytes(struct stream *, uint16_t channel, uint16_t code, amqp_bytes_t text,
                           amqp_method_number_t cause);
void wire_send_close(struct stream *, uint16_t channel, uint16_t code, const char *text,
                     amqp_method_number_t cause);
