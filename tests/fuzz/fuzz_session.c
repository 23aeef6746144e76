/* A whole session with the proxy while RabbitMQ is away: whatever a client sends, the proxy answers
 * in well-formed frames, the session ends, and so does the proxy, with nothing left over.
 *
 * Input: a mode (1 byte), then, by the mode, bytes from the first of a connection, bytes behind a
 * handshake, or frames behind a handshake and channel.open: type (1 byte), channel (1 byte), length
 * of the payload (2 bytes), payload; connection.close follows them. */

#include "amqp/method.h"
#include "fuzz.h"
#include "peer.h"
#include "proxy_thread.h"

enum { INPUT_MAX = 16384 };

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    proxy_thread_start("accept", 0);
    return 0;
}

static void put_frames(struct bytes *b, struct input *in)
{
    static const uint8_t types[] = {FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT};
    static const uint8_t open[] = {0, 20, 0, 10, 0};
    static const uint8_t close[] = {0, 10, 0, 50, 0, 200, 0, 0, 0, 0, 0};
    put_frame(b, FRAME_METHOD, 1, open, sizeof open);
    while (in->left > 0) {
        uint8_t type = types[input_octet(in) % sizeof types];
        uint16_t channel = input_octet(in) % 4;
        size_t len;
        const uint8_t *payload = input_take(in, (size_t)input_number(in, 2), &len);
        put_frame(b, type, type == FRAME_HEARTBEAT ? 0 : channel, payload, len);
    }
    put_frame(b, FRAME_METHOD, 0, close, sizeof close);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size < INPUT_MAX ? size : INPUT_MAX};
    unsigned mode = input_octet(&in) % 3;
    struct bytes b = {0};
    if (mode > 0)
        put_handshake(&b);
    if (mode == 2)
        put_frames(&b, &in);
    else
        put_bytes(&b, in.at, in.left);
    peer_converse(&b, mode != 2);
    bytes_free(&b);
    return 0;
}
