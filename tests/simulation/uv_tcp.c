/* libuv's TCP over the connections of link.h. */

#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "link.h"
#include "sim_uv.h"

enum {
    FD_FIRST = 1 << 20, /* numbers that are no descriptors of this process */
    SOCKETS_MAX = 4096,
    ACCEPTS_MAX = 1024,
    CONNECT_US = 20000,
};

struct sock {
    uv_tcp_t *tcp;
    struct end *end; /* NULL: not connected, or the process was killed */
    unsigned index;
    bool reading, told_end, is_lost; /* told_end: read_cb has had its end */
    struct deed news, written, connected;
    uv_connect_t *connect;
    uv_write_t *write;
    uint8_t *rest; /* of that write */
    size_t rest_len;
    int write_status, connect_status;
};

static struct sock *sockets[SOCKETS_MAX];

/* The listening socket: the proxy of a simulation has one. */
static struct {
    uv_stream_t *stream;
    uv_connection_cb callback;
    struct end *waiting[ACCEPTS_MAX];
    unsigned count;
    struct deed news;
} listener;

static struct end *(*dial)(int port, bool *silent);

void sim_uv_on_dial(struct end *(*function)(int port, bool *silent))
{
    dial = function;
}

static struct sock *sock_of(const void *tcp)
{
    return ((const uv_tcp_t *)tcp)->u.reserved[3];
}

int uv_tcp_init(uv_loop_t *loop, uv_tcp_t *tcp)
{
    sim_handle_init(loop, (uv_handle_t *)tcp, UV_TCP);
    tcp->connection_cb = NULL;
    struct sock *s = calloc(1, sizeof *s);
    ENSURE(s);
    s->tcp = tcp;
    while (s->index < SOCKETS_MAX && sockets[s->index])
        s->index++;
    ENSURE(s->index < SOCKETS_MAX);
    sockets[s->index] = s;
    tcp->u.reserved[3] = s;
    return 0;
}

/* ---- reading ---- */

static void read_some(void *arg);

static void look_for_news(struct sock *s)
{
    bool any = s->is_lost || (s->end && end_has_news(s->end));
    if (any && s->reading && !s->told_end)
        deed_in(&s->news, 0, read_some, s);
}

static void tell_end(struct sock *s, int status)
{
    s->told_end = true;
    uv_buf_t none = {0};
    s->tcp->read_cb((uv_stream_t *)s->tcp, status, &none);
}

static void read_some(void *arg)
{
    struct sock *s = arg;
    if (!s->reading || s->told_end)
        return;
    if (s->is_lost || end_is_dead(s->end)) {
        tell_end(s, UV_ECONNRESET);
        return;
    }
    if (end_is_over(s->end)) {
        tell_end(s, UV_EOF);
        return;
    }
    uv_buf_t buf = {0};
    s->tcp->alloc_cb((uv_handle_t *)s->tcp, 65536, &buf);
    ENSURE(buf.base && buf.len > 0);
    size_t size = buf.len;
    if (prng_percent(sim_uv_prng(), 20))
        size = 1 + prng_below(sim_uv_prng(), size < 64 ? size : 64);
    int64_t n = end_read(s->end, buf.base, size);
    uv_tcp_t *tcp = s->tcp;
    tcp->read_cb((uv_stream_t *)tcp, n, &buf);
    if (!uv_is_closing((uv_handle_t *)tcp))
        look_for_news(s);
}

static void on_readable(void *owner)
{
    look_for_news(owner);
}

int uv_read_start(uv_stream_t *stream, uv_alloc_cb alloc, uv_read_cb callback)
{
    struct sock *s = sock_of(stream);
    stream->alloc_cb = alloc;
    stream->read_cb = callback;
    s->reading = true;
    look_for_news(s);
    return 0;
}

int uv_read_stop(uv_stream_t *stream)
{
    struct sock *s = sock_of(stream);
    s->reading = false;
    deed_cancel(&s->news);
    return 0;
}

/* ---- writing ---- */

static void write_done(void *arg)
{
    struct sock *s = arg;
    uv_write_t *write = s->write;
    s->write = NULL;
    free(s->rest);
    s->rest = NULL;
    write->cb(write, s->write_status);
}

static void finish_write(struct sock *s, int status)
{
    s->write_status = status;
    deed_in(&s->written, 0, write_done, s);
}

/* What the socket takes: all, or some of it for no reason. */
static int64_t put(struct sock *s, const void *bytes, size_t len)
{
    if (s->is_lost || !s->end)
        return UV_ECONNRESET;
    if (len > 1 && prng_percent(sim_uv_prng(), 5))
        len = 1 + prng_below(sim_uv_prng(), len - 1);
    int64_t n = end_write(s->end, bytes, len);
    return n == END_IS_RESET ? UV_EPIPE : n;
}

static void write_more(struct sock *s)
{
    if (!s->write || s->written.next)
        return;
    int64_t n = 1;
    while (s->rest_len > 0 && n > 0) {
        n = put(s, s->rest, s->rest_len);
        if (n > 0) {
            s->rest_len -= (size_t)n;
            memmove(s->rest, s->rest + n, s->rest_len);
        }
    }
    if (s->rest_len == 0 || n < 0)
        finish_write(s, n < 0 ? (int)n : 0);
}

static void on_writable(void *owner)
{
    write_more(owner);
}

int uv_try_write(uv_stream_t *stream, const uv_buf_t *bufs, unsigned count)
{
    struct sock *s = sock_of(stream);
    if (s->write)
        return UV_EAGAIN;
    int64_t total = 0;
    for (unsigned i = 0; i < count; i++) {
        int64_t n = put(s, bufs[i].base, bufs[i].len);
        if (n < 0)
            return total > 0 ? (int)total : (int)n;
        total += n;
        if ((size_t)n < bufs[i].len)
            break;
    }
    return total > 0 ? (int)total : UV_EAGAIN;
}

int uv_write(uv_write_t *write, uv_stream_t *stream, const uv_buf_t *bufs, unsigned count,
             uv_write_cb callback)
{
    struct sock *s = sock_of(stream);
    ENSURE(!s->write);
    write->handle = stream;
    write->cb = callback;
    s->write = write;
    s->rest_len = 0;
    for (unsigned i = 0; i < count; i++)
        s->rest_len += bufs[i].len;
    s->rest = malloc(s->rest_len + 1);
    ENSURE(s->rest);
    for (size_t i = 0, at = 0; i < count; at += bufs[i++].len)
        memcpy(s->rest + at, bufs[i].base, bufs[i].len);
    write_more(s);
    return 0;
}

static const struct end_handler handler = {on_readable, on_writable};

/* ---- connecting ---- */

static void connect_done(void *arg)
{
    struct sock *s = arg;
    uv_connect_t *connect = s->connect;
    s->connect = NULL;
    connect->cb(connect, s->is_lost ? UV_ECONNRESET : s->connect_status);
}

int uv_tcp_connect(uv_connect_t *connect, uv_tcp_t *tcp, const struct sockaddr *address,
                   uv_connect_cb callback)
{
    struct sock *s = sock_of(tcp);
    bool is_silent = false;
    connect->handle = (uv_stream_t *)tcp;
    connect->cb = callback;
    s->connect = connect;
    if (!sim_uv_is_killed())
        s->end = dial(ntohs(((const struct sockaddr_in *)address)->sin_port), &is_silent);
    s->connect_status = s->end ? 0 : UV_ECONNREFUSED;
    if (s->end)
        end_own(s->end, &handler, s);
    if (!is_silent)
        deed_in(&s->connected, prng_below(sim_uv_prng(), CONNECT_US), connect_done, s);
    return 0;
}

int uv_tcp_bind(uv_tcp_t *tcp, const struct sockaddr *address, unsigned flags)
{
    (void)tcp, (void)address, (void)flags;
    return 0;
}

int uv_tcp_open(uv_tcp_t *tcp, uv_os_sock_t fd)
{
    (void)tcp, (void)fd;
    return UV_EINVAL; /* nothing is passed on to it */
}

static void tell_listener(void *arg)
{
    (void)arg;
    if (listener.count == 0 || !listener.stream)
        return;
    listener.callback(listener.stream, 0);
    if (listener.count > 0)
        deed_in(&listener.news, 0, tell_listener, NULL);
}

bool sim_uv_is_listening(void)
{
    return listener.stream != NULL;
}

int uv_listen(uv_stream_t *stream, int backlog, uv_connection_cb callback)
{
    (void)backlog;
    listener.stream = stream;
    listener.callback = callback;
    return 0;
}

struct end *sim_uv_connect(uint64_t seed)
{
    if (!listener.stream || sim_uv_is_killed() || listener.count == ACCEPTS_MAX)
        return NULL;
    struct end *here, *there;
    struct prng prng = prng_of(seed, 2);
    struct link_shape shape = {
        .delay_us = (uint32_t)prng_between(&prng, 1, prng_percent(&prng, 20) ? 40000 : 1000),
        .buffer_bytes = (uint32_t)prng_between(&prng, 1024, 65536)};
    link_new(&here, &there, shape, prng);
    listener.waiting[listener.count++] = there;
    deed_in(&listener.news, shape.delay_us, tell_listener, NULL);
    return here;
}

int uv_accept(uv_stream_t *server, uv_stream_t *stream)
{
    ENSURE(server == listener.stream);
    if (listener.count == 0)
        return UV_EAGAIN;
    struct sock *s = sock_of(stream);
    s->end = listener.waiting[0];
    memmove(listener.waiting, listener.waiting + 1, --listener.count * sizeof *listener.waiting);
    end_own(s->end, &handler, s);
    return 0;
}

static void close_listener(void)
{
    deed_cancel(&listener.news);
    for (unsigned i = 0; i < listener.count; i++)
        end_abort(listener.waiting[i]);
    listener.count = 0;
    listener.stream = NULL;
}

/* ---- the end ---- */

/* Callbacks of what was under way come before the one of the close, as libuv has it. */
void sim_tcp_close(uv_tcp_t *tcp)
{
    struct sock *s = sock_of(tcp);
    if (listener.stream == (uv_stream_t *)tcp)
        close_listener();
    deed_cancel(&s->news);
    deed_cancel(&s->written);
    deed_cancel(&s->connected);
    s->reading = false;
    if (s->end)
        end_close(s->end);
    s->end = NULL;
}

/* From run_closing's side: the handle's last moment. */
void sim_tcp_closed(uv_tcp_t *tcp)
{
    struct sock *s = sock_of(tcp);
    if (s->write) {
        s->write_status = UV_ECANCELED;
        write_done(s);
    }
    if (s->connect) {
        s->connect_status = UV_ECANCELED;
        connect_done(s);
    }
    sockets[s->index] = NULL;
    free(s);
}

void sim_tcp_kill_all(void)
{
    if (listener.stream)
        close_listener();
    for (unsigned i = 0; i < SOCKETS_MAX; i++) {
        struct sock *s = sockets[i];
        if (!s || (!s->end && !s->connect) || uv_is_closing((uv_handle_t *)s->tcp))
            continue;
        if (s->end)
            end_close(s->end);
        s->end = NULL;
        s->is_lost = true;
        if (s->connect)
            deed_in(&s->connected, 0, connect_done, s);
        if (s->write && !s->written.next)
            finish_write(s, UV_ECONNRESET);
        look_for_news(s);
    }
}

int uv_fileno(const uv_handle_t *handle, uv_os_fd_t *fd)
{
    const struct sock *s = sock_of(handle);
    if (!s->end)
        return UV_EBADF;
    *fd = FD_FIRST + (int)s->index;
    return 0;
}

/* What net/stream asks of a socket that it does not read, and base/log of standard error, which
 * takes all: poll(2), whose own declaration says that it only writes to fds. */
int look_at_socket(struct pollfd *fds, nfds_t count, int timeout) __asm__("poll");
int look_at_socket(struct pollfd *fds, nfds_t count, int timeout)
{
    ENSURE(count == 1 && timeout == 0);
    if (fds->fd == STDERR_FILENO)
        return 1;
    ENSURE(fds->fd >= FD_FIRST);
    const struct sock *s = sockets[fds->fd - FD_FIRST];
    fds->revents = 0;
    if (end_was_reset(s->end))
        fds->revents = POLLERR | POLLHUP;
    else if (end_other_has_finished(s->end))
        fds->revents = POLLRDHUP;
    return fds->revents != 0;
}

int uv_tcp_nodelay(uv_tcp_t *tcp, int enable)
{
    (void)tcp, (void)enable;
    return 0;
}

int uv_is_writable(const uv_stream_t *stream)
{
    return sock_of(stream)->end != NULL;
}

int uv_tcp_getpeername(const uv_tcp_t *tcp, struct sockaddr *name, int *len)
{
    (void)tcp, (void)name, (void)len;
    return UV_ENOTCONN;
}
