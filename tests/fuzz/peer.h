#pragma once

/* A client of the proxy in the thread, as simple as one can be: it sends bytes, and holds the
 * proxy to answering with frames that are well formed, and to coming to an end. */

#include "amqp/method.h"

#include "../support/bytes.h"

/* Puts a method without a field that is longer than a frame of 1,024 bytes. */
void put_method(struct bytes *b, uint16_t channel, amqp_method_number_t number, const void *fields);

/* Puts the protocol header and the methods up to connection.open. */
void put_handshake(struct bytes *b);

/* Sends it all, reads until the proxy has closed the connection or has said that it is closing
 * it. With `half_close`, the proxy sees the end of file after the last byte. An answer that never
 * comes is found by libFuzzer's -timeout. */
void peer_converse(const struct bytes *b, bool half_close);
