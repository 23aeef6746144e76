#pragma once

/* A client of the proxy in the thread, as simple as one can be: it sends bytes, and holds the
 * proxy to answering with frames that are well formed, and to coming to an end. */

#include "../support/bytes.h"

/* Puts the protocol header and the methods up to connection.open. */
void put_handshake(struct bytes *b);

/* Sends it all, reads until the proxy has closed the connection or has said that it is closing
 * it. With `half_close`, the proxy sees the end of file after the last byte. An answer that never
 * comes is found by libFuzzer's -timeout. */
void peer_converse(const struct bytes *b, bool half_close);
