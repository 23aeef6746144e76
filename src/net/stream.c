#include "net/stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/assert.h"
#include "net/tls.h"

enum {
    IOV_BATCH = 128,
    CIPHER_BYTES = 64 * 1024, /* read at once, and encrypted at once */
    TLS_RECORD_BYTES = 16 * 1024,
    REST_MS = 250, /* without a byte: buffers are given back */
};

/* ---- what all streams share ---- */

static void end_reading(struct stream *s, int status);

void net_flush(struct net *net)
{
    /* A flush may report an error to an owner who closes other streams: always take the first. */
    struct list *node;
    while ((node = list_first(&net->unflushed)) != NULL) {
        struct stream *s = LIST_ENTRY(node, struct stream, unflushed);
        list_remove(node);
        stream_flush(s);
        if (s->ended && s->reading && !s->closing)
            end_reading(s, s->end_status);
    }
}

void net_init(struct net *net, uv_loop_t *loop)
{
    *net = (struct net){.loop = loop};
    list_init(&net->unflushed);
}

void net_close(struct net *net)
{
    ENSURE(net->stream_count == 0);
    if (net->read_slab)
        slab_unref(net->read_slab);
    if (net->write_slab)
        slab_unref(net->write_slab);
    net->read_slab = net->write_slab = NULL;
    free(net->cipher);
    net->cipher = NULL;
}

/* ---- reading ---- */

static bool make_room(struct stream *s)
{
    return in_buffer_make_room(&s->in, &s->net->read_slab);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    struct stream *s = handle->data;
    *buf = uv_buf_init(NULL, 0); /* libuv reports UV_ENOBUFS */
    if (s->tls) {
        if (!s->net->cipher)
            s->net->cipher = malloc(CIPHER_BYTES);
        if (s->net->cipher)
            *buf = uv_buf_init((char *)s->net->cipher, CIPHER_BYTES);
    } else if (make_room(s)) {
        *buf = uv_buf_init((char *)s->in.end, (unsigned)in_buffer_room(&s->in));
    }
}

static void end_reading(struct stream *s, int status)
{
    stream_pause(s);
    s->handler->on_end(s, status);
}

static void mark_unflushed(struct stream *s);

/* All of it at once, so that nothing decrypted is left behind when the owner pauses the stream. */
static void decrypt(struct stream *s, const uint8_t *bytes, size_t len)
{
    size_t before = in_buffer_len(&s->in);
    int n = 1; /* positive: there was no room to read all of it */
    tls_feed(s->tls, bytes, len);
    while (make_room(s) && (n = tls_read(s->tls, s->in.end, in_buffer_room(&s->in))) > 0)
        in_buffer_got(&s->in, (size_t)n);
    bool any = in_buffer_len(&s->in) > before;
    in_buffer_rest(&s->in);
    mark_unflushed(s); /* answers of TLS itself, and what has waited for the handshake */
    if (any)
        s->handler->on_data(s);
    if (s->closing || n == TLS_LATER)
        return;
    stream_flush(s); /* the alert */
    if (s->closing)
        return;
    s->end_status = n == TLS_ENDED ? 0 : n > 0 ? UV_ENOBUFS : UV_EPROTO;
    if (s->reading)
        end_reading(s, s->end_status);
    else
        s->ended = true;
}

static void on_read(uv_stream_t *handle, ssize_t n, const uv_buf_t *buf)
{
    struct stream *s = handle->data;
    if (n > 0) {
        s->last_read_ms = uv_now(s->net->loop);
        if (s->tls) {
            decrypt(s, (const uint8_t *)buf->base, (size_t)n);
            return;
        }
        in_buffer_got(&s->in, (size_t)n);
        s->handler->on_data(s);
        return;
    }
    in_buffer_rest(&s->in);
    if (n < 0)
        end_reading(s, s->broken ? s->end_status : n == UV_EOF ? 0 : (int)n);
}

size_t stream_held_bytes(const struct stream *s)
{
    size_t held = slab_share(s->in.slab) + out_ring_share(&s->out);
    return s->tls ? held + tls_held_bytes(s->tls) : held;
}

uint8_t *stream_input(const struct stream *s, size_t *len)
{
    *len = in_buffer_len(&s->in);
    return s->in.begin;
}

void stream_consume(struct stream *s, size_t len)
{
    in_buffer_consume(&s->in, len);
}

void stream_expect(struct stream *s, size_t len)
{
    s->in.expected = len;
}

static int start_reading(struct stream *s)
{
    s->reading = true;
    return uv_read_start((uv_stream_t *)&s->tcp, on_alloc, on_read);
}

void stream_pause(struct stream *s)
{
    if (!s->reading)
        return;
    s->reading = false;
    uv_read_stop((uv_stream_t *)&s->tcp);
}

void stream_resume(struct stream *s)
{
    if (s->reading || s->closing)
        return;
    s->last_read_ms = s->resumed_ms = uv_now(s->net->loop); /* silence while paused was ours */
    if (!s->ended) {
        ENSURE(start_reading(s) == 0);
        return;
    }
    s->reading = true;
    if (list_empty(&s->unflushed))
        list_append(&s->net->unflushed, &s->unflushed);
}

/* ---- writing ---- */

static void mark_unflushed(struct stream *s)
{
    if (list_empty(&s->unflushed) && !s->writing)
        list_append(&s->net->unflushed, &s->unflushed);
}

void stream_write_span(struct stream *s, struct slab *slab, uint8_t *at, size_t len)
{
    if (s->closing || len == 0)
        return;
    mark_unflushed(s);
    if (s->broken)
        return; /* the flush tells, if nothing is read any more */
    out_ring_add(&s->out, slab, at, len, !s->writing);
    if (s->out.bytes > STREAM_HIGH_BYTES)
        s->full = true;
}

void stream_write_copy(struct stream *s, const void *bytes, size_t len)
{
    struct slab *slab = slab_with_room(&s->net->write_slab, len);
    ENSURE(slab);
    uint8_t *at = slab->data + slab->used;
    memcpy(at, bytes, len);
    slab->used += len;
    stream_write_span(s, slab, at, len);
}

static void out_sent(struct stream *s, size_t n)
{
    out_ring_sent(&s->out, n);
    s->last_write_ms = uv_now(s->net->loop);
}

static unsigned encrypt(struct stream *s, uv_buf_t *buf, size_t *total)
{
    uint8_t scratch[TLS_RECORD_BYTES];
    const uint8_t *bytes = tls_output(s->tls, total);
    while (s->out.count > 0 && *total < CIPHER_BYTES) {
        const uint8_t *at;
        size_t len = out_ring_front(&s->out, scratch, sizeof scratch, &at);
        int n = tls_write(s->tls, at, len);
        bytes = tls_output(s->tls, total);
        if (n <= 0)
            break; /* the handshake is under way, or reading will tell what is wrong */
        out_sent(s, (size_t)n);
    }
    *buf = uv_buf_init((char *)(uintptr_t)bytes, (unsigned)*total);
    return *total > 0;
}

/* The next bytes for the socket; 0 if there are none. */
static unsigned next_output(struct stream *s, uv_buf_t *bufs, size_t *total)
{
    return s->tls ? encrypt(s, bufs, total) : out_ring_gather(&s->out, bufs, IOV_BATCH, total);
}

static void socket_took(struct stream *s, size_t n)
{
    if (s->tls)
        tls_sent(s->tls, n);
    else
        out_sent(s, n);
}

static void tell_writable(struct stream *s)
{
    if (!s->full || s->out.bytes > STREAM_LOW_BYTES || s->closing)
        return;
    s->full = false;
    if (s->handler->on_writable)
        s->handler->on_writable(s);
}

/* What the peer has sent before it went away may be there to read, and the end of it follows: a
 * goodbye with a reason, confirms, the last messages. shutdown makes sure that it does. */
static void write_failed(struct stream *s, int status)
{
    if (s->closing)
        return;
    s->broken = true;
    s->end_status = status;
    if (!s->reading) {
        s->handler->on_end(s, status);
        return;
    }
    out_ring_clear(&s->out);
    uv_os_fd_t fd;
    if (uv_fileno((const uv_handle_t *)&s->tcp, &fd) == 0)
        shutdown(fd, SHUT_RDWR);
    tell_writable(s);
}

static void on_written(uv_write_t *write, int status)
{
    struct stream *s = write->handle->data;
    s->writing = false;
    if (s->closing)
        return;
    if (status < 0) {
        write_failed(s, status);
        return;
    }
    if (s->tls) {
        free(s->sending);
        s->sending = NULL;
    } else {
        out_sent(s, (size_t)(uintptr_t)write->data);
    }
    stream_flush(s);
    tell_writable(s);
}

/* The socket is full: libuv waits until it takes the rest of this batch. */
static int write_rest(struct stream *s)
{
    uv_buf_t bufs[IOV_BATCH];
    size_t total;
    unsigned n = next_output(s, bufs, &total);
    if (s->tls) { /* OpenSSL may move its buffer meanwhile */
        s->sending = malloc(total);
        if (!s->sending)
            return UV_ENOMEM;
        memcpy(s->sending, bufs[0].base, total);
        tls_sent(s->tls, total);
        bufs[0].base = (char *)s->sending;
    }
    s->write.data = (void *)(uintptr_t)total;
    return uv_write(&s->write, (uv_stream_t *)&s->tcp, bufs, n, on_written);
}

void stream_flush(struct stream *s)
{
    uv_buf_t bufs[IOV_BATCH];
    if (s->broken && !s->reading)
        write_failed(s, s->end_status);
    while (!s->closing && !s->broken && !s->writing) {
        size_t total;
        unsigned n = next_output(s, bufs, &total);
        if (n == 0)
            break;
        int sent = uv_try_write((uv_stream_t *)&s->tcp, bufs, n);
        if (sent < 0 && sent != UV_EAGAIN) {
            write_failed(s, sent);
            return;
        }
        if (sent > 0)
            socket_took(s, (size_t)sent);
        if (sent >= 0 && (size_t)sent == total)
            continue;
        int status = write_rest(s);
        if (status < 0) {
            write_failed(s, status);
            return;
        }
        s->writing = true;
    }
    tell_writable(s);
}

void stream_rest(struct stream *s)
{
    uint64_t now = uv_now(s->net->loop);
    if (s->tls && !s->writing && !s->closing && now - s->last_read_ms >= REST_MS &&
        now - s->last_write_ms >= REST_MS)
        tls_trim(s->tls);
}

/* ---- life ---- */

void stream_init(struct stream *s, struct net *net, const struct stream_handler *handler)
{
    *s = (struct stream){.net = net, .handler = handler};
    list_init(&s->unflushed);
    net->stream_count++;
    ENSURE(uv_tcp_init(net->loop, &s->tcp) == 0);
    s->tcp.data = s;
    s->last_read_ms = s->last_write_ms = uv_now(net->loop);
}

/* Finds peers that have vanished without a word, where no heartbeat was agreed on, within two
 * minutes. */
static void keep_alive(const struct stream *s)
{
    enum { IDLE_S = 60, INTERVAL_S = 15, PROBES = 4 };
    uv_os_fd_t fd;
    if (uv_fileno((const uv_handle_t *)&s->tcp, &fd) < 0)
        return;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){IDLE_S}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){INTERVAL_S}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &(int){PROBES}, sizeof(int));
}

enum stream_peer stream_look_at_peer(const struct stream *s)
{
    struct pollfd look = {.events = POLLRDHUP};
    if (s->closing || uv_fileno((const uv_handle_t *)&s->tcp, &look.fd) < 0 ||
        poll(&look, 1, 0) <= 0)
        return STREAM_PEER_THERE;
    return look.revents & (POLLERR | POLLHUP) ? STREAM_PEER_LOST : STREAM_PEER_ENDED;
}

int stream_accept(struct stream *s, uv_stream_t *listener)
{
    int status = uv_accept(listener, (uv_stream_t *)&s->tcp);
    if (status < 0)
        return status;
    uv_tcp_nodelay(&s->tcp, 1);
    keep_alive(s);
    return start_reading(s);
}

static void on_connect(uv_connect_t *connect, int status)
{
    struct stream *s = connect->handle->data;
    if (s->closing)
        return;
    if (status == 0) {
        uv_tcp_nodelay(&s->tcp, 1);
        keep_alive(s);
        status = start_reading(s);
        if (s->tls) {
            tls_begin(s->tls);
            mark_unflushed(s);
        }
    }
    s->last_read_ms = s->last_write_ms = uv_now(s->net->loop);
    s->handler->on_connected(s, status);
}

int stream_connect(struct stream *s, const struct sockaddr *address)
{
    return uv_tcp_connect(&s->connect, &s->tcp, address, on_connect);
}

static void on_close(uv_handle_t *handle)
{
    struct stream *s = handle->data;
    out_ring_clear(&s->out);
    in_buffer_clear(&s->in);
    tls_free(s->tls);
    s->tls = NULL;
    free(s->sending);
    s->sending = NULL;
    s->net->stream_count--;
    s->handler->on_closed(s);
}

void stream_use_tls(struct stream *s, struct tls_context *context, const char *host)
{
    ENSURE(!s->tls);
    s->tls = tls_new(context, host);
}

const char *stream_why(const struct stream *s, int status)
{
    bool of_tls = s->tls && status == UV_EPROTO && tls_why(s->tls)[0];
    return of_tls ? tls_why(s->tls) : uv_strerror(status);
}

/* As far as the socket takes it: nobody waits for a goodbye. */
static void say_goodbye(struct stream *s)
{
    uv_buf_t buf;
    size_t total;
    if (s->writing || !uv_is_writable((uv_stream_t *)&s->tcp))
        return;
    tls_shutdown(s->tls);
    buf.base = (char *)(uintptr_t)tls_output(s->tls, &total);
    buf.len = total;
    if (total > 0)
        uv_try_write((uv_stream_t *)&s->tcp, &buf, 1);
}

void stream_close(struct stream *s)
{
    if (s->closing)
        return;
    if (s->tls)
        say_goodbye(s);
    s->closing = true;
    s->reading = false;
    list_remove(&s->unflushed);
    uv_close((uv_handle_t *)&s->tcp, on_close);
}
