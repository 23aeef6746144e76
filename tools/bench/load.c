/* Publishers for the benchmark, on one thread.
 *
 * usage: load stream PORT CONNECTIONS SIZE MESSAGES
 *            flat out; ends with channel.close-ok
 *        load confirms PORT CONNECTIONS SIZE MESSAGES WINDOW
 *            WINDOW unconfirmed on each connection
 *        load paced PORT SIZE MESSAGES RATE
 *            one connection, RATE messages a second
 *        load sessions PORT AT_A_TIME SESSIONS
 *            connect, channel, publish 1, close
 *        load idle PORT CONNECTIONS
 *            a channel each, until input ends
 *
 * BENCH_LOGIN in the environment is "USER PASSWORD VHOST" (guest guest /); with BENCH_TRANSIENT
 * messages have delivery mode 1, not 2.
 *
 * Prints one line: messages or sessions a second, and for confirms p50, p99, p99.9 and the longest
 * time from publish to ack in microseconds. */

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "frames.h"

enum { IN_BYTES = 65536, BLOCK_BYTES = 256 * 1024 };
static unsigned delivery_mode;
enum mode { STREAM, CONFIRMS, PACED, SESSIONS, IDLE };

struct client {
    int fd;
    size_t have;
    bool is_ready, wants_write, is_done;
    uint64_t sent, acked, due; /* messages; all that it may have sent by now */
    size_t message_left;       /* bytes of the message that is partly written */
    double *times;             /* when each was sent, a ring of `window` */
    uint8_t in[IN_BYTES];
};

static struct {
    char user[32], password[32], vhost[32];
} login = {"guest", "guest", "/"};
static enum mode mode;
static unsigned short port;
static size_t size;
static uint64_t total, each, window;
static double rate;
static int epoll;
static uint8_t *block; /* whole messages, one behind the other */
static size_t message_bytes, block_messages;
static double *latencies;
static uint64_t latency_count, done_count, started_count;
static struct client *clients;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void send_now(struct client *c, const uint8_t *bytes, size_t len)
{
    if (send(c->fd, bytes, len, MSG_NOSIGNAL) != (ssize_t)len)
        fail("a short frame does not fit into the socket");
}

static void say(struct client *c, unsigned channel, uint32_t method, const void *args, size_t len)
{
    uint8_t frame[256];
    send_now(c, frame, (size_t)(put_method(frame, channel, method, args, len) - frame));
}

static void watch_writes(struct client *c, bool on)
{
    if (c->wants_write == on)
        return;
    struct epoll_event event = {.events = EPOLLIN | (on ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
    c->wants_write = on;
}

static void dial(struct client *c)
{
    int on = 1;
    struct sockaddr_in name = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    double *times = c->times;
    memset(c, 0, offsetof(struct client, in));
    c->times = times;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&name, sizeof name) < 0)
        fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event) < 0)
        fail("epoll_ctl");
    started_count++;
    send_now(c, (const uint8_t *)"AMQP\0\0\x09\x01", 8);
}

static void close_channel(struct client *c)
{
    say(c, 1, METHOD_CHANNEL_CLOSE, "\0\xc8\0\0\0\0\0", 7);
}

/* Sends whole messages up to `due`, as far as the socket takes them. */
static void publish(struct client *c)
{
    while (c->sent < c->due || c->message_left > 0) {
        size_t begin = c->message_left > 0 ? message_bytes - c->message_left : 0;
        uint64_t left = c->due - c->sent + (c->message_left > 0);
        uint64_t count = left < block_messages ? left : block_messages;
        size_t len = count * message_bytes - begin;
        double at = latencies ? now() : 0;
        ssize_t n = send(c->fd, block + begin, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN)
            fail("send");
        if (n <= 0) {
            watch_writes(c, true);
            return;
        }
        size_t end = begin + (size_t)n;
        uint64_t begun = (end + message_bytes - 1) / message_bytes - (begin > 0);
        for (uint64_t i = 0; latencies && i < begun; i++)
            c->times[(c->sent + i) % window] = at;
        c->sent += begun;
        c->message_left = end % message_bytes ? message_bytes - end % message_bytes : 0;
    }
    watch_writes(c, false);
    if (mode == STREAM && c->sent == each && !c->is_done) {
        c->is_done = true;
        close_channel(c);
    }
}

static void acked(struct client *c, uint64_t tag)
{
    double at = now();
    for (uint64_t t = c->acked; t < tag; t++)
        latencies[latency_count++] = at - c->times[t % window];
    c->acked = tag;
    if (mode == CONFIRMS) {
        c->due = c->acked + window < each ? c->acked + window : each;
        publish(c);
    }
    if (c->acked == each && !c->is_done) {
        c->is_done = true;
        close_channel(c);
    }
}

static void channel_is_open(struct client *c)
{
    c->is_ready = true;
    switch (mode) {
    case STREAM:
        c->due = each;
        publish(c);
        break;
    case CONFIRMS:
        c->due = window < each ? window : each;
        publish(c);
        break;
    case SESSIONS:
        send_now(c, block, message_bytes);
        close_channel(c);
        break;
    case PACED:
    case IDLE:
        break;
    }
}

static void ended(struct client *c)
{
    close(c->fd);
    c->fd = -1;
    done_count++;
    if (mode == SESSIONS && started_count < total)
        dial(c);
}

/* PLAIN (RFC 4616): NUL, user, NUL, password. */
static void send_login(struct client *c)
{
    uint8_t args[256] = {0}, *at = put_bytes(args + 4, "\5PLAIN", 6);
    size_t user_len = strlen(login.user), password_len = strlen(login.password);
    at = put(at, 2 + user_len + password_len, 4);
    at = put(at, 0, 1);
    at = put_bytes(at, login.user, user_len);
    at = put(at, 0, 1);
    at = put_bytes(at, login.password, password_len);
    at = put_bytes(at, "\5en_US", 6);
    say(c, 0, METHOD_START_OK, args, (size_t)(at - args));
}

static void send_open(struct client *c)
{
    uint8_t args[64] = {0};
    size_t len = strlen(login.vhost);
    put_bytes(put(args, len, 1), login.vhost, len);
    say(c, 0, METHOD_OPEN, args, len + 3);
}

static void take_method(struct client *c, const uint8_t *args, uint32_t method)
{
    switch (method) {
    case METHOD_START:
        send_login(c);
        break;
    case METHOD_TUNE:
        say(c, 0, METHOD_TUNE_OK, "\x07\xff\0\2\0\0\0\0", 8);
        send_open(c);
        break;
    case METHOD_OPEN_OK:
        say(c, 1, METHOD_CHANNEL_OPEN, "\0", 1);
        break;
    case METHOD_CHANNEL_OPEN_OK:
        if (latencies)
            say(c, 1, METHOD_SELECT, "\0", 1);
        else
            channel_is_open(c);
        break;
    case METHOD_SELECT_OK:
        channel_is_open(c);
        break;
    case METHOD_ACK: {
        uint64_t tag = get(args, 8);
        if (args[8] || tag == c->acked + 1)
            acked(c, tag);
        break;
    }
    case METHOD_CHANNEL_CLOSE_OK:
        say(c, 0, METHOD_CLOSE, "\0\xc8\0\0\0\0\0", 7);
        break;
    case METHOD_CLOSE_OK:
        ended(c);
        break;
    case METHOD_CLOSE:
    case METHOD_CHANNEL_CLOSE:
        fprintf(stderr, "load: refused: %.*s\n", args[2], (const char *)args + 3);
        exit(1);
    default:
        break;
    }
}

static void take_input(struct client *c)
{
    ssize_t n = recv(c->fd, c->in + c->have, IN_BYTES - c->have, MSG_DONTWAIT);
    if (n <= 0) {
        if (n < 0 && errno == EAGAIN)
            return;
        fail("the other side ended the connection");
    }
    c->have += (size_t)n;
    size_t at = 0;
    uint64_t session = started_count + done_count;
    while (c->have - at >= 8) {
        size_t len = get(c->in + at + 3, 4);
        if (c->have - at < len + 8)
            break;
        const uint8_t *payload = c->in + at + 7;
        at += len + 8;
        if (payload[-7] == FRAME_METHOD)
            take_method(c, payload + 4, (uint32_t)get(payload, 4));
        if (started_count + done_count != session)
            return; /* it has ended, and a new one may live here */
    }
    memmove(c->in, c->in + at, c->have - at);
    c->have -= at;
}

static void turn(int timeout_ms)
{
    struct epoll_event events[256];
    int count = epoll_wait(epoll, events, 256, timeout_ms);
    for (int i = 0; i < count; i++) {
        struct client *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT)
            publish(c);
        if (events[i].events & ~(unsigned)EPOLLOUT)
            take_input(c);
    }
}

static int by_value(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double share(double part)
{
    return latencies[(uint64_t)(part * (double)(latency_count - 1))] * 1e6;
}

static void report(double seconds, uint64_t count)
{
    printf("%.0f", (double)count / seconds);
    if (latencies && latency_count > 0) {
        qsort(latencies, latency_count, sizeof *latencies, by_value);
        printf(" %.0f %.0f %.0f %.0f", share(0.5), share(0.99), share(0.999), share(1));
    }
    putchar('\n');
}

static void pace(struct client *c)
{
    double begin = now();
    while (done_count == 0) {
        double due = (now() - begin) * rate;
        c->due = due < (double)each ? (uint64_t)due : each;
        if (c->sent < c->due)
            publish(c);
        /* To the millisecond the kernel waits, the rest is spent looking. */
        turn(0);
    }
}

static void make_block(void)
{
    block = malloc(BLOCK_BYTES + 2 * size + 65536);
    if (!block)
        fail("memory");
    message_bytes = (size_t)(put_publish(block, 1, delivery_mode, size) - block);
    block_messages = BLOCK_BYTES / message_bytes + 1;
    uint8_t *at = block;
    for (size_t i = 0; i < block_messages; i++)
        at = put_publish(at, 1, delivery_mode, size);
}

static void wait_ready(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        while (!clients[i].is_ready)
            turn(-1);
}

static uint64_t argument(char *argv[], int argc, int index)
{
    if (index >= argc) {
        fputs("load: see the top of load.c\n", stderr);
        exit(2);
    }
    return strtoull(argv[index], NULL, 10);
}

int main(int argc, char *argv[])
{
    const char *wanted = getenv("BENCH_LOGIN");
    if (wanted && sscanf(wanted, "%31s %31s %31s", login.user, login.password, login.vhost) != 3) {
        fputs("load: BENCH_LOGIN is \"USER PASSWORD VHOST\"\n", stderr);
        return 2;
    }
    delivery_mode = getenv("BENCH_TRANSIENT") ? 1 : 2;
    static const char *const names[] = {"stream", "confirms", "paced", "sessions", "idle"};
    while (mode <= IDLE && (argc < 2 || strcmp(argv[1], names[mode]) != 0))
        mode++;
    port = (unsigned short)argument(argv, mode <= IDLE ? argc : 0, 2);
    unsigned count = 1;
    if (mode != PACED)
        count = (unsigned)argument(argv, argc, 3);
    if (mode == STREAM || mode == CONFIRMS) {
        size = argument(argv, argc, 4);
        each = argument(argv, argc, 5) / count;
        total = each * count;
        window = mode == CONFIRMS ? argument(argv, argc, 6) : 1;
    } else if (mode == PACED) {
        size = argument(argv, argc, 3);
        total = each = argument(argv, argc, 4);
        rate = (double)argument(argv, argc, 5);
        window = each;
    } else if (mode == SESSIONS) {
        size = 100;
        total = argument(argv, argc, 4);
    } else {
        total = count;
    }
    make_block();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    clients = calloc(count, sizeof *clients);
    if (mode == CONFIRMS || mode == PACED)
        latencies = malloc((total + 1) * sizeof *latencies);
    if (!clients || ((mode == CONFIRMS || mode == PACED) && !latencies))
        fail("memory");
    for (unsigned i = 0; i < count; i++)
        if (latencies && !(clients[i].times = malloc(window * sizeof(double))))
            fail("memory");
    double begin = now();
    for (unsigned i = 0; i < count && started_count < total; i++) {
        dial(&clients[i]);
        if (mode == IDLE)
            while (!clients[i].is_ready)
                turn(-1);
    }
    if (mode == IDLE) {
        puts("ready");
        fflush(stdout);
        while (getchar() != EOF)
            ;
        return 0;
    }
    if (mode == PACED) {
        wait_ready(1);
        pace(&clients[0]);
    } else {
        while (done_count < (mode == SESSIONS ? total : count))
            turn(-1);
    }
    report(now() - begin, total);
    return 0;
}
