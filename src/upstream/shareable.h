#pragma once

/* What may be sent on an upstream that many clients share: what leaves nothing behind on the
 * connection (consumers, exclusive queues, transactions do), and what RabbitMQ is not known to
 * close a connection over. All else is done on an upstream of the client's own, so that it meets
 * RabbitMQ's words alone. As of RabbitMQ 3.8 to 4.3. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqp/method.h"

/* True if nothing of it is lost with the connection that it was sent on. */
bool method_leaves_nothing(amqp_method_number_t, const void *decoded);
/* True if it may be sent on a shared one. `major` is RabbitMQ's version, 0 if it is not known. */
bool shareable_method(amqp_method_number_t, const void *decoded, unsigned major);
/* The payloads of a publish's method and content header, both well-formed; without a method it may.
 */
bool shareable_publish(const uint8_t *method, size_t method_len, const uint8_t *header,
                       size_t header_len);
