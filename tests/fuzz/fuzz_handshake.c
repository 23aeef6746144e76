/* The handshake with a client, up to the login, which is refused while RabbitMQ is away: the proxy
 * answers in well-formed frames and closes.
 *
 * Input: what each field of the client's methods is, with its length before it (1 byte):
 * client-properties, mechanism, response, vhost; between them the numbers of tune-ok. Behind them,
 * bytes that are sent as they are. */

#include "amqp/method.h"
#include "fuzz.h"
#include "peer.h"
#include "proxy_thread.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    proxy_thread_start("reject", 0);
    return 0;
}

static void put_field(struct bytes *b, struct input *in, bool is_long)
{
    size_t len;
    const uint8_t *field = input_take(in, input_octet(in), &len);
    if (is_long)
        put32(b, (uint32_t)len);
    else
        put8(b, (unsigned)len);
    put_bytes(b, field, len);
}

/* Frames what `payload` holds, and empties it. */
static void put_payload(struct bytes *b, struct bytes *payload)
{
    put_frame(b, FRAME_METHOD, 0, payload->data, payload->len);
    payload->len = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct bytes b = {0}, payload = {0};
    put_bytes(&b, "AMQP\0\0\x09\x01", 8);
    put32(&payload, AMQP_CONNECTION_START_OK_METHOD);
    put_field(&payload, &in, true);
    put_field(&payload, &in, false);
    put_field(&payload, &in, true);
    put_short_string(&payload, "en_US");
    put_payload(&b, &payload);
    put32(&payload, AMQP_CONNECTION_TUNE_OK_METHOD);
    put16(&payload, (unsigned)input_number(&in, 2));
    put32(&payload, (uint32_t)input_number(&in, 4));
    put16(&payload, (unsigned)input_number(&in, 2));
    put_payload(&b, &payload);
    put32(&payload, AMQP_CONNECTION_OPEN_METHOD);
    put_field(&payload, &in, false);
    put16(&payload, 0);
    put_payload(&b, &payload);
    put_bytes(&b, in.at, in.left);
    peer_converse(&b, true);
    bytes_free(&payload);
    bytes_free(&b);
    return 0;
}
