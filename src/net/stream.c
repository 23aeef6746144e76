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
    READ_MIN_BYTES = 16 * 1024,   /* least room offered to a read */
    LARGE_UNIT_BYTES = 32 * 1024, /* a unit from here on is read into a slab of its own */
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

/* A shared slab with at least `room` bytes left; replaces the one in *slab if it has less. */
static struct slab *slab_with_room(struct slab **slab, size_t room)
{
    if (*slab && (*slab)->refs == 1)
        (*slab)->used = 0; /* nobody else looks at it any more */
    if (!*slab || (*slab)->capacity - (*slab)->used < room) {
        struct slab *fresh = slab_new(room > SLAB_BYTES ? room : SLAB_BYTES);
        if (!fresh)
            return NULL;
        if (*slab)
            slab_unref(*slab);
        *slab = fresh;
    }
    return *slab;
}

/* ---- reading ---- */

static void drop_input(struct stream *s)
{
    if (s->in)
        slab_unref(s->in);
    s->in = NULL;
    s->in_begin = s->in_end = NULL;
}

static size_t room_after_input(const struct stream *s)
{
    return (size_t)(s->in->data + s->in->capacity - s->in_end);
}

/* True if the unit that the owner waits for can be completed where its beginning lies. */
static bool input_can_grow(const struct stream *s)
{
    size_t have = (size_t)(s->in_end - s->in_begin);
    size_t missing = s->in_expected > have ? s->in_expected - have : 1;
    if (room_after_input(s) < missing)
        return false;
    /* Only while nobody has read behind us: a slab may be, or may have been, the shared one. */
    return s->in_end == s->in->data + s->in->used;
}

/* Moves the input to where the rest of a unit has room: its beginning, or, if the owner has left
 * them there, whole units and what follows them. */
static bool move_input(struct stream *s)
{
    size_t have = (size_t)(s->in_end - s->in_begin);
    size_t need = s->in_expected > have ? s->in_expected : have + READ_MIN_BYTES;
    struct slab *to;
    uint8_t *at;
    if (need > LARGE_UNIT_BYTES) {
        /* Room for a second unit saves moving its beginning again. */
        to = slab_new(need > SLAB_BYTES ? need : SLAB_BYTES);
        if (!to)
            return false;
        at = to->data;
        to->used = have;
    } else {
        to = slab_with_room(&s->net->read_slab, LARGE_UNIT_BYTES + READ_MIN_BYTES);
        if (!to)
            return false;
        slab_ref(to);
        at = to->data + to->used;
        to->used += have;
    }
    memcpy(at, s->in_begin, have);
    drop_input(s);
    s->in = to;
    s->in_begin = at;
    s->in_end = at + have;
    return true;
}

/* Room behind the input; false when memory is short. */
static bool make_room(struct stream *s)
{
    if (s->in)
        return input_can_grow(s) || move_input(s);
    struct slab *slab = slab_with_room(&s->net->read_slab, READ_MIN_BYTES);
    if (!slab)
        return false;
    s->in = slab_ref(slab);
    s->in_begin = s->in_end = slab->data + slab->used;
    return true;
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
        *buf = uv_buf_init((char *)s->in_end, (unsigned)room_after_input(s));
    }
}

static void got_input(struct stream *s, size_t n)
{
    s->in_end += n;
    s->in->used = (size_t)(s->in_end - s->in->data);
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
    size_t before = s->in ? (size_t)(s->in_end - s->in_begin) : 0;
    int n = 1; /* positive: there was no room to read all of it */
    tls_feed(s->tls, bytes, len);
    while (make_room(s) && (n = tls_read(s->tls, s->in_end, room_after_input(s))) > 0)
        got_input(s, (size_t)n);
    bool any = s->in && (size_t)(s->in_end - s->in_begin) > before;
    if (s->in && s->in_begin == s->in_end)
        drop_input(s);
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
        got_input(s, (size_t)n);
        s->handler->on_data(s);
        return;
    }
    if (s->in && s->in_begin == s->in_end)
        drop_input(s);
    if (n < 0)
        end_reading(s, n == UV_EOF ? 0 : (int)n);
}

size_t stream_held_bytes(const struct stream *s)
{
    size_t held = slab_share(s->in);
    for (uint32_t i = 0; i < s->out_count; i++)
        held += slab_share(s->out[(s->out_first + i) & (s->out_capacity - 1)].slab);
    return s->tls ? held + tls_held_bytes(s->tls) : held;
}

uint8_t *stream_input(const struct stream *s, size_t *len)
{
    *len = (size_t)(s->in_end - s->in_begin);
    return s->in_begin;
}

void stream_consume(struct stream *s, size_t len)
{
    ENSURE(len <= (size_t)(s->in_end - s->in_begin));
    s->in_expected = 0;
    if (!s->in)
        return; /* adding even 0 to NULL is undefined */
    s->in_begin += len;
    if (s->in_begin == s->in_end)
        drop_input(s);
}

void stream_expect(struct stream *s, size_t len)
{
    s->in_expected = len;
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

static struct out_span *out_at(struct stream *s, uint32_t index)
{
    return &s->out[(s->out_first + index) & (s->out_capacity - 1)];
}

static void grow_out(struct stream *s)
{
    uint32_t capacity = s->out_capacity ? s->out_capacity * 2 : 8;
    struct out_span *out = malloc(capacity * sizeof *out);
    ENSURE(out);
    for (uint32_t i = 0; i < s->out_count; i++)
        out[i] = *out_at(s, i);
    free(s->out);
    s->out = out;
    s->out_capacity = capacity;
    s->out_first = 0;
}

static void mark_unflushed(struct stream *s)
{
    if (list_empty(&s->unflushed) && !s->writing)
        list_append(&s->net->unflushed, &s->unflushed);
}

void stream_write_span(struct stream *s, struct slab *slab, uint8_t *at, size_t len)
{
    if (s->closing || len == 0)
        return;
    s->out_bytes += len;
    if (s->out_bytes > STREAM_HIGH_BYTES)
        s->full = true;
    mark_unflushed(s);
    /* The last entry may only grow while no write of it is under way. */
    if (s->out_count > 0 && !s->writing) {
        struct out_span *last = out_at(s, s->out_count - 1);
        if (last->slab == slab && last->at + last->len == at) {
            last->len += len;
            return;
        }
    }
    if (s->out_count == s->out_capacity)
        grow_out(s);
    *out_at(s, s->out_count) = (struct out_span){slab_ref(slab), at, len};
    s->out_count++;
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
    s->out_bytes -= n;
    s->last_write_ms = uv_now(s->net->loop);
    while (n > 0) {
        struct out_span *span = out_at(s, 0);
        if (n < span->len) {
            span->at += n;
            span->len -= n;
            return;
        }
        n -= span->len;
        slab_unref(span->slab);
        s->out_first = (s->out_first + 1) & (s->out_capacity - 1);
        s->out_count--;
    }
    if (s->out_count == 0 && s->out_capacity > 64) { /* a burst is over */
        free(s->out);
        s->out = NULL;
        s->out_capacity = s->out_first = 0;
    }
}

static unsigned gather(struct stream *s, uv_buf_t *bufs, size_t *total)
{
    unsigned n = 0;
    *total = 0;
    for (; n < IOV_BATCH && n < s->out_count; n++) {
        struct out_span *span = out_at(s, n);
        bufs[n] = uv_buf_init((char *)span->at, (unsigned)span->len);
        *total += span->len;
    }
    return n;
}

/* Up to a record's worth of what is queued, in one piece. */
static size_t next_record(struct stream *s, uint8_t *scratch, const uint8_t **at)
{
    struct out_span *first = out_at(s, 0);
    *at = first->at;
    if (first->len >= TLS_RECORD_BYTES || s->out_count == 1)
        return first->len < TLS_RECORD_BYTES ? first->len : TLS_RECORD_BYTES;
    size_t len = 0;
    for (uint32_t i = 0; i < s->out_count && len < TLS_RECORD_BYTES; i++) {
        struct out_span *span = out_at(s, i);
        size_t room = TLS_RECORD_BYTES - len, n = span->len < room ? span->len : room;
        memcpy(scratch + len, span->at, n);
        len += n;
    }
    *at = scratch;
    return len;
}

static unsigned encrypt(struct stream *s, uv_buf_t *buf, size_t *total)
{
    uint8_t scratch[TLS_RECORD_BYTES];
    const uint8_t *bytes = tls_output(s->tls, total);
    while (s->out_count > 0 && *total < CIPHER_BYTES) {
        const uint8_t *at;
        size_t len = next_record(s, scratch, &at);
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
    return s->tls ? encrypt(s, bufs, total) : gather(s, bufs, total);
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
    if (!s->full || s->out_bytes > STREAM_LOW_BYTES || s->closing)
        return;
    s->full = false;
    if (s->handler->on_writable)
        s->handler->on_writable(s);
}

static void write_failed(struct stream *s, int status)
{
    if (s->closing)
        return;
    stream_pause(s);
    s->handler->on_end(s, status);
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
    while (!s->closing && !s->writing) {
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
    for (uint32_t i = 0; i < s->out_count; i++)
        slab_unref(out_at(s, i)->slab);
    free(s->out);
    s->out = NULL;
    s->out_count = s->out_capacity = 0;
    drop_input(s);
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
