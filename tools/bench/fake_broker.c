/* A broker that takes everything and keeps nothing: the handshake, channels, confirms (one ack for
 * all of a read), and messages counted by their frames. One thread.
 *
 * usage: fake_broker PORT */

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frames.h"

enum { BUFFER_BYTES = 1024 * 1024, CHANNELS = 2048, FDS = 65536 };

struct channel {
    uint64_t body_left, tag, acked;
    bool confirming;
};

struct peer {
    int fd;
    size_t have;
    bool greeted;
    struct channel *channels;
    uint16_t touched[CHANNELS]; /* with tags to ack after this read */
    unsigned touched_count;
    uint8_t in[BUFFER_BYTES];
};

static struct peer *peers[FDS]; /* by descriptor */

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void send_all(struct peer *p, const uint8_t *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = send(p->fd, bytes, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return; /* it is gone: the next read tells */
        if (n > 0) {
            bytes += n;
            len -= (size_t)n;
        }
    }
}

static void answer(struct peer *p, unsigned channel, uint32_t method, const void *args, size_t len)
{
    uint8_t frame[512];
    send_all(p, frame, (size_t)(put_method(frame, channel, method, args, len) - frame));
}

static void greet(struct peer *p)
{
    uint8_t args[256], *at = args, *table;
    at = put(at, 9, 2);
    table = at;
    at = put(at, 0, 4);
    at = put_bytes(at,
                   "\x0c"
                   "capabilitiesF",
                   14);
    uint8_t *inner = at;
    at = put(at, 0, 4);
    at = put_bytes(at,
                   "\x12"
                   "publisher_confirmst\1",
                   21);
    at = put_bytes(at,
                   "\x0a"
                   "basic.nackt\1",
                   13);
    put(inner, (uint64_t)(at - inner - 4), 4);
    put(table, (uint64_t)(at - table - 4), 4);
    at = put(at, 5, 4);
    at = put_bytes(at, "PLAIN", 5);
    at = put(at, 5, 4);
    at = put_bytes(at, "en_US", 5);
    answer(p, 0, METHOD_START, args, (size_t)(at - args));
}

static void counted(struct peer *p, unsigned number)
{
    struct channel *ch = &p->channels[number];
    if (!ch->confirming)
        return;
    if (ch->tag++ == ch->acked)
        p->touched[p->touched_count++] = (uint16_t)number;
}

static void take_method(struct peer *p, unsigned number, const uint8_t *payload)
{
    struct channel *ch = &p->channels[number];
    uint8_t tune[8];
    switch (get(payload, 4)) {
    case METHOD_START_OK:
        put(put(put(tune, 2047, 2), FRAME_MAX, 4), 0, 2);
        answer(p, 0, METHOD_TUNE, tune, sizeof tune);
        break;
    case METHOD_OPEN:
        answer(p, 0, METHOD_OPEN_OK, "\0", 1);
        break;
    case METHOD_CLOSE:
        answer(p, 0, METHOD_CLOSE_OK, "", 0);
        break;
    case METHOD_CHANNEL_OPEN:
        *ch = (struct channel){0};
        answer(p, number, METHOD_CHANNEL_OPEN_OK, "\0\0\0\0", 4);
        break;
    case METHOD_CHANNEL_CLOSE:
        answer(p, number, METHOD_CHANNEL_CLOSE_OK, "", 0);
        break;
    case METHOD_SELECT:
        ch->confirming = true;
        answer(p, number, METHOD_SELECT_OK, "", 0);
        break;
    default:
        break;
    }
}

static void take_frame(struct peer *p, const uint8_t *frame, size_t size)
{
    unsigned number = (unsigned)get(frame + 1, 2) % CHANNELS;
    struct channel *ch = &p->channels[number];
    switch (frame[0]) {
    case FRAME_METHOD:
        take_method(p, number, frame + 7);
        break;
    case FRAME_HEADER:
        ch->body_left = get(frame + 11, 8);
        if (ch->body_left == 0)
            counted(p, number);
        break;
    case FRAME_BODY:
        ch->body_left -= size;
        if (ch->body_left == 0)
            counted(p, number);
        break;
    default:
        break;
    }
}

static void ack(struct peer *p)
{
    for (unsigned i = 0; i < p->touched_count; i++) {
        struct channel *ch = &p->channels[p->touched[i]];
        uint8_t args[9];
        put(put(args, ch->tag, 8), ch->tag != ch->acked + 1, 1);
        ch->acked = ch->tag;
        answer(p, p->touched[i], METHOD_ACK, args, sizeof args);
    }
    p->touched_count = 0;
}

static void take_input(struct peer *p)
{
    size_t at = 0;
    if (!p->greeted && p->have >= 8) {
        p->greeted = true;
        at = 8;
        greet(p);
    }
    while (p->greeted && p->have - at >= 8) {
        size_t size = get(p->in + at + 3, 4);
        if (p->have - at < size + 8)
            break;
        take_frame(p, p->in + at, size);
        at += size + 8;
    }
    memmove(p->in, p->in + at, p->have - at);
    p->have -= at;
    ack(p);
}

static bool serve(struct peer *p)
{
    ssize_t n = recv(p->fd, p->in + p->have, BUFFER_BYTES - p->have, 0);
    if (n <= 0)
        return n < 0 && errno == EAGAIN;
    p->have += (size_t)n;
    take_input(p);
    return true;
}

static void accept_one(int epoll, int listener)
{
    int on = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (fd >= FDS)
        fail("too many connections");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct peer *p = calloc(1, sizeof *p);
    if (p)
        p->channels = calloc(CHANNELS, sizeof *p->channels);
    if (!p || !p->channels)
        fail("memory");
    p->fd = fd;
    peers[fd] = p;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
}

int main(int argc, char *argv[])
{
    if (argc != 2) {
        fputs("usage: fake_broker PORT\n", stderr);
        return 2;
    }
    struct sockaddr_in name = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)atoi(argv[1])),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1, epoll = epoll_create1(EPOLL_CLOEXEC);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&name, sizeof name) < 0 || listen(listener, 4096) < 0)
        fail("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[64];
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0)
        fail("epoll_ctl");
    for (;;) {
        int count = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            struct peer *p = peers[fd];
            if (fd == listener) {
                accept_one(epoll, listener);
            } else if (!serve(p)) {
                peers[fd] = NULL;
                close(fd);
                free(p->channels);
                free(p);
            }
        }
    }
}
