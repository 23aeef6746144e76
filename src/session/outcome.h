#pragma once

/* What RabbitMQ says of the publishes on a relay: confirmed, nacked, returned, or lost with their
 * channel. Each is told to its publisher, or kept, if that one hears nothing of it (P4). */

#include <stdbool.h>

#include "session/relay_struct.h"

enum outcome {
    OUTCOME_NONE, /* it cannot be read */
    OUTCOME_SAFE, /* all that it is about was told, or is kept */
    OUTCOME_LOST, /* some is neither: its publisher has to hear that */
};

/* basic.ack or basic.nack. */
enum outcome outcome_confirm(struct relay *, const struct frame *, bool nack);
/* Nobody hears of the exception: the client is gone, or waits for connection.close-ok, or its
 * channel was closed before. RabbitMQ has thrown away what followed the bad message. If it was
 * alone it is kept as rejected, and so are all to an exchange that is not there; what else there is
 * goes to the spool: the drain finds the bad one and rejects it. False if no copies were kept. */
bool outcome_keep(struct relay *, const amqp_channel_close_t *);
/* RabbitMQ gives a message back: basic.return, its header, and its end, once its publisher has all
 * of it. Nobody hears of it any more: it is kept as rejected as soon as its header is there. */
void outcome_begin_return(struct relay *, const struct frame *);
void outcome_note_header(struct relay *, struct slab *, const struct frame *header);
void outcome_end_return(struct relay *);
void outcome_keep_return(struct relay *);
