#include "peer.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "amqp/method.h"
#include "proxy_thread.h"

enum { FRAME_MAX = 131072 };

static const uint8_t protocol_header[] = {'A', 'M', 'Q', 'P', 0, 0, 9, 1};

void put_method(struct bytes *b, uint16_t channel, amqp_method_number_t number, const void *fields)
{
    uint8_t frame[1024];
    size_t len = method_encode(frame, sizeof frame, channel, number, fields);
    ENSURE(len > 0);
    put_bytes(b, frame, len);
}

void put_handshake(struct bytes *b)
{
    static const char login[] = "\0guest\0guest";
    amqp_connection_start_ok_t start_ok = {
        .mechanism = bytes_of("PLAIN"),
        .response = {.len = sizeof login - 1, .bytes = (void *)(uintptr_t)login},
        .locale = bytes_of("en_US")};
    amqp_connection_tune_ok_t tune_ok = {.channel_max = 64, .frame_max = FRAME_MAX};
    amqp_connection_open_t open = {.virtual_host = bytes_of("/")};
    put_bytes(b, protocol_header, sizeof protocol_header);
    put_method(b, 0, AMQP_CONNECTION_START_OK_METHOD, &start_ok);
    put_method(b, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &tune_ok);
    put_method(b, 0, AMQP_CONNECTION_OPEN_METHOD, &open);
}

/* Looks at the whole frames among what was answered and takes them out; true if one of them ends
 * the connection. */
static bool take_answers(struct bytes *answers)
{
    size_t at = 0, need;
    bool ends = false;
    struct frame frame;
    enum frame_result result;
    while ((result = frame_scan(answers->data + at, answers->len - at, FRAME_MAX, &frame, &need)) ==
           FRAME_COMPLETE) {
        if (frame.type == FRAME_METHOD)
            ENSURE(method_check(frame.payload, frame.payload_len));
        amqp_method_number_t number =
            frame.type == FRAME_METHOD ? method_number(frame.payload, frame.payload_len) : 0;
        ends = ends || number == AMQP_CONNECTION_CLOSE_METHOD ||
               number == AMQP_CONNECTION_CLOSE_OK_METHOD;
        at += frame.payload_len + FRAME_OVERHEAD_BYTES;
    }
    ENSURE(result == FRAME_PARTIAL);
    memmove(answers->data, answers->data + at, answers->len - at);
    answers->len -= at;
    return ends;
}

/* What is sent fits the buffers of a socket, so nobody has to read meanwhile. A proxy that has
 * closed the connection takes no more. */
static void send_all(int fd, const struct bytes *b)
{
    for (size_t at = 0; at < b->len;) {
        ssize_t sent = send(fd, b->data + at, b->len - at, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
            return;
        ENSURE(sent > 0);
        at += (size_t)sent;
    }
}

void peer_converse(const struct bytes *b, bool half_close)
{
    int fd = proxy_thread_connect();
    send_all(fd, b);
    if (half_close)
        shutdown(fd, SHUT_WR);
    struct bytes answers = {0};
    bool first = true, ends = false;
    while (half_close || !ends) {
        uint8_t buffer[4096];
        ssize_t got = recv(fd, buffer, sizeof buffer, 0);
        ENSURE(got >= 0 || errno == ECONNRESET);
        if (got <= 0)
            break;
        put_bytes(&answers, buffer, (size_t)got);
        /* The answer to another protocol's header. */
        if (first && answers.data[0] == protocol_header[0])
            break;
        first = false;
        ends = take_answers(&answers) || ends;
    }
    bytes_free(&answers);
    close(fd);
}
