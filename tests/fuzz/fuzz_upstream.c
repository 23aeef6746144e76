/* Both sides of the proxy: a client, and the RabbitMQ that it is connected to. Whatever either
 * sends, with whatever frame_max, the other gets well-formed frames within its own frame_max, and
 * the proxy lives.
 *
 * Input: RabbitMQ's frame_max and the client's (4 bytes each), then units: who sends what (1 byte),
 * channel (1 byte), a length (2 bytes), and so many bytes:
 *
 *   0 to 3  the client sends a method, header, body frame or heartbeat with this payload
 *   4 to 7  RabbitMQ does
 *   8       the client sends connection.update-secret, 16 times as long
 *   9       RabbitMQ's connection is cut
 *   10      both sides are read until nothing has come for a moment */

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "amqp/method.h"
#include "fuzz.h"
#include "peer.h"
#include "proxy_thread.h"

enum { INPUT_MAX = 8192, QUIET_MS = 1, CONNECTIONS = 8, USER_BYTES = 24 };

struct peer {
    int fd; /* -1: there is none */
    uint32_t frame_max;
    bool checked; /* what it gets is frames: not the answer to another protocol */
    struct bytes got;
};

static int listener;
static char user[USER_BYTES]; /* of this input: no other input's connection is taken for its own */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ENSURE(listener >= 0 && bind(listener, (struct sockaddr *)&at, len) == 0);
    ENSURE(listen(listener, CONNECTIONS) == 0);
    ENSURE(getsockname(listener, (struct sockaddr *)&at, &len) == 0);
    proxy_thread_start("reject", ntohs(at.sin_port));
    return 0;
}

/* True if there is something to be read from `fd`; false: from the other one, -1 for none.
 * libFuzzer's alarm, which looks at its -timeout, ends a poll. */
static bool wait_for(int fd, int or_else)
{
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = or_else, .events = POLLIN}};
    while (poll(fds, 2, -1) < 0)
        ENSURE(errno == EINTR);
    return fds[0].revents != 0;
}

/* ---- one side ---- */

static void peer_end(struct peer *p)
{
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    if (p->fd >= 0) {
        setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(p->fd);
    }
    bytes_free(&p->got);
    *p = (struct peer){.fd = -1};
}

/* Nobody reads meanwhile: what does not fit the buffers of the socket is left out, with the rest.
 */
static void peer_send(struct peer *p, const struct bytes *b)
{
    for (size_t at = 0; p->fd >= 0 && at < b->len;) {
        ssize_t sent = send(p->fd, b->data + at, b->len - at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent <= 0)
            return;
        at += (size_t)sent;
    }
}

static void check_frames(struct peer *p)
{
    size_t at = 0, need;
    struct frame frame;
    enum frame_result result;
    while ((result = frame_scan(p->got.data + at, p->got.len - at, p->frame_max, &frame, &need)) ==
           FRAME_COMPLETE) {
        at += frame.payload_len + FRAME_OVERHEAD_BYTES;
        if (frame.type == FRAME_METHOD)
            ENSURE(method_number(frame.payload, frame.payload_len) != 0);
    }
    ENSURE(result == FRAME_PARTIAL);
    memmove(p->got.data, p->got.data + at, p->got.len - at);
    p->got.len -= at;
}

/* What has come within a moment; false if nothing did. */
static bool peer_read(struct peer *p)
{
    struct pollfd poll_fd = {.fd = p->fd, .events = POLLIN};
    if (p->fd < 0 || poll(&poll_fd, 1, QUIET_MS) <= 0)
        return false;
    uint8_t buffer[65536];
    ssize_t got = recv(p->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got <= 0) {
        peer_end(p);
        return false;
    }
    put_bytes(&p->got, buffer, (size_t)got);
    if (p->checked)
        check_frames(p);
    return true;
}

/* Until the next method has come, of a handshake that nothing disturbs. It is taken out. */
static amqp_method_number_t peer_await(struct peer *p, struct bytes *payload)
{
    size_t need;
    struct frame frame;
    while (frame_scan(p->got.data, p->got.len, 0, &frame, &need) != FRAME_COMPLETE) {
        wait_for(p->fd, -1);
        uint8_t buffer[4096];
        ssize_t got = recv(p->fd, buffer, sizeof buffer, 0);
        if (got <= 0)
            return 0;
        put_bytes(&p->got, buffer, (size_t)got);
    }
    amqp_method_number_t number = method_number(frame.payload, frame.payload_len);
    if (payload) {
        payload->len = 0;
        put_bytes(payload, frame.payload, frame.payload_len);
    }
    size_t size = frame.payload_len + FRAME_OVERHEAD_BYTES;
    memmove(p->got.data, p->got.data + size, p->got.len - size);
    p->got.len -= size;
    return number;
}

static void peer_say(struct peer *p, amqp_method_number_t number, const void *fields)
{
    struct bytes b = {0};
    put_method(&b, 0, number, fields);
    peer_send(p, &b);
    bytes_free(&b);
}

/* ---- the two ---- */

/* The next connection of the proxy that logs in as this input's user, up to connection.open. Others
 * are of users that earlier inputs had. */
static bool broker_accept(struct peer *broker, const struct peer *client, uint32_t frame_max)
{
    struct bytes payload = {0};
    bool found = false;
    while (!found) {
        if (!wait_for(listener, client->fd))
            break; /* the client is refused: RabbitMQ counts as away */
        *broker = (struct peer){.fd = accept(listener, NULL, NULL), .frame_max = frame_max};
        if (broker->fd < 0)
            continue;
        uint8_t preamble[8];
        bool whole = recv(broker->fd, preamble, sizeof preamble, MSG_WAITALL) == sizeof preamble;
        amqp_connection_start_t start = {
            .version_minor = 9, .mechanisms = bytes_of("PLAIN"), .locales = bytes_of("en_US")};
        static amqp_table_entry_t inner = {.key = {18, (void *)(uintptr_t) "publisher_confirms"},
                                           .value = {.kind = AMQP_FIELD_KIND_BOOLEAN,
                                                     .value.boolean = 1}},
                                  outer = {.key = {12, (void *)(uintptr_t) "capabilities"},
                                           .value = {.kind = AMQP_FIELD_KIND_TABLE,
                                                     .value.table = {1, &inner}}};
        start.server_properties = (amqp_table_t){1, &outer};
        if (whole)
            peer_say(broker, AMQP_CONNECTION_START_METHOD, &start);
        found = whole && peer_await(broker, &payload) == AMQP_CONNECTION_START_OK_METHOD &&
                memmem(payload.data, payload.len, user, strlen(user));
        if (!found)
            peer_end(broker);
    }
    bytes_free(&payload);
    if (!found)
        return false;
    amqp_connection_tune_t tune = {.channel_max = 64, .frame_max = frame_max};
    peer_say(broker, AMQP_CONNECTION_TUNE_METHOD, &tune);
    return frame_max == 0 || frame_max >= FRAME_MIN_SIZE;
}

/* Both are through the handshake, or the client was refused: false. */
static bool meet(struct peer *client, struct peer *broker, uint32_t client_max, uint32_t broker_max)
{
    static unsigned number;
    char login[2 * USER_BYTES];
    snprintf(user, sizeof user, "user-%u-of-fuzz", number++);
    int len = snprintf(login, sizeof login, "%c%s%cpw", 0, user, 0);
    struct bytes b = {0};
    *client = (struct peer){.fd = proxy_thread_connect()};
    put_bytes(&b, "AMQP\0\0\x09\x01", 8);
    amqp_connection_start_ok_t start_ok = {.mechanism = bytes_of("PLAIN"),
                                           .response = {.len = (size_t)len, .bytes = login},
                                           .locale = bytes_of("en_US")};
    put_method(&b, 0, AMQP_CONNECTION_START_OK_METHOD, &start_ok);
    peer_send(client, &b);
    bytes_free(&b);
    if (peer_await(client, NULL) != AMQP_CONNECTION_START_METHOD)
        return false; /* this login was refused already, unread */
    if (!broker_accept(broker, client, broker_max))
        return false;
    struct bytes tune = {0};
    if (peer_await(client, &tune) != AMQP_CONNECTION_TUNE_METHOD) {
        bytes_free(&tune);
        return false;
    }
    uint32_t offered = wire_get32(tune.data + 6);
    bytes_free(&tune);
    client->frame_max = client_max && (!offered || client_max < offered) ? client_max : offered;
    amqp_connection_tune_ok_t tune_ok = {.channel_max = 64, .frame_max = client->frame_max};
    peer_say(client, AMQP_CONNECTION_TUNE_OK_METHOD, &tune_ok);
    amqp_connection_open_t open = {.virtual_host = bytes_of("/")};
    peer_say(client, AMQP_CONNECTION_OPEN_METHOD, &open);
    if (client->frame_max && client->frame_max < FRAME_MIN_SIZE)
        return false; /* refused */
    if (peer_await(broker, NULL) != AMQP_CONNECTION_TUNE_OK_METHOD ||
        peer_await(broker, NULL) != AMQP_CONNECTION_OPEN_METHOD)
        return false;
    amqp_connection_open_ok_t open_ok = {0};
    peer_say(broker, AMQP_CONNECTION_OPEN_OK_METHOD, &open_ok);
    client->checked = broker->checked = true;
    return peer_await(client, NULL) == AMQP_CONNECTION_OPEN_OK_METHOD;
}

static void send_secret(struct peer *client, size_t len)
{
    struct bytes payload = {0}, b = {0};
    put32(&payload, AMQP_CONNECTION_UPDATE_SECRET_METHOD);
    put32(&payload, (uint32_t)len);
    memset(bytes_grow(&payload, len), 's', len);
    put8(&payload, 0);
    put_frame(&b, FRAME_METHOD, 0, payload.data, payload.len);
    peer_send(client, &b);
    bytes_free(&payload);
    bytes_free(&b);
}

static void play(struct peer *client, struct peer *broker, struct input *in)
{
    static const uint8_t types[] = {FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT};
    while (in->left > 0) {
        unsigned what = input_octet(in) % 11;
        uint16_t channel = input_octet(in) % 4;
        size_t len = (size_t)input_number(in, 2), taken = 0;
        if (what < 8) {
            struct bytes b = {0};
            const uint8_t *payload = input_take(in, len, &taken);
            put_frame(&b, types[what % 4], what % 4 == 3 ? 0 : channel, payload, taken);
            peer_send(what < 4 ? client : broker, &b);
            bytes_free(&b);
        } else if (what == 8) {
            send_secret(client, len * 16);
        } else if (what == 9) {
            peer_end(broker);
        } else {
            while (peer_read(client) || peer_read(broker))
                ;
        }
    }
    while (peer_read(client) || peer_read(broker))
        ;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size < INPUT_MAX ? size : INPUT_MAX};
    uint32_t broker_max = (uint32_t)input_number(&in, 4),
             client_max = (uint32_t)input_number(&in, 4);
    struct peer client = {.fd = -1}, broker = {.fd = -1};
    if (meet(&client, &broker, client_max, broker_max))
        play(&client, &broker, &in);
    peer_end(&client);
    peer_end(&broker);
    return 0;
}
