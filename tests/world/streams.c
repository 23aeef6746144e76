/* net/stream.h and what the core uses of libuv, in memory. */

#include <stdlib.h>
#include <string.h>

#include <netdb.h>

#include "net/stream.h"
#include "world.h"

enum { STREAMS_MAX = 512, TIMERS_MAX = 64 };

/* What a stream has beside its struct. */
struct wire {
    struct stream *stream;
    uint8_t *written;
    size_t written_len;
    bool accepted, connecting, open;
};

static struct wire *wires[STREAMS_MAX];
static struct {
    uv_timer_t *timer;
    uv_timer_cb callback;
    uint64_t due_ms;
} timers[TIMERS_MAX];
static struct {
    uv_getaddrinfo_t *request;
    uv_getaddrinfo_cb callback;
} lookups[16];

static struct wire *wire_of(const struct stream *s)
{
    for (unsigned i = 0; i < STREAMS_MAX; i++)
        if (wires[i] && wires[i]->stream == s)
            return wires[i];
    fail_msg("a stream that was not initialised, or is closed");
    return NULL;
}

static void drop_wire(unsigned i)
{
    free(wires[i]->written);
    free(wires[i]);
    wires[i] = NULL;
}

void world_streams_reset(void)
{
    for (unsigned i = 0; i < STREAMS_MAX; i++)
        assert_null(wires[i]);
    for (unsigned i = 0; i < TIMERS_MAX; i++)
        assert_null(timers[i].timer);
}

struct stream *world_stream(unsigned index)
{
    for (unsigned i = 0, n = 0; i < STREAMS_MAX; i++)
        if (wires[i] && n++ == index)
            return wires[i]->stream;
    return NULL;
}

bool world_is_server_side(const struct stream *s)
{
    return wire_of(s)->accepted;
}

bool world_is_open(const struct stream *s)
{
    return wire_of(s)->open && !s->closing;
}

uint8_t *world_written(struct stream *s, size_t *len)
{
    struct wire *w = wire_of(s);
    *len = w->written_len;
    return w->written;
}

void world_take_written(struct stream *s, size_t len)
{
    struct wire *w = wire_of(s);
    w->written_len -= len;
    if (w->written_len > 0)
        memmove(w->written, w->written + len, w->written_len);
    s->out.count = w->written_len > 0;
}

void world_set_full(struct stream *s, bool full)
{
    bool was = s->full;
    s->full = full;
    if (was && !full)
        s->handler->on_writable(s);
}

/* ---- reading ---- */

static void drop_input(struct stream *s)
{
    if (s->in.slab)
        slab_unref(s->in.slab);
    s->in.slab = NULL;
    s->in.begin = s->in.end = NULL;
}

void world_arrive(struct stream *s, const void *bytes, size_t len)
{
    size_t old = (size_t)(s->in.end - s->in.begin);
    struct slab *slab = slab_new(old + len);
    if (old > 0)
        memcpy(slab->data, s->in.begin, old);
    memcpy(slab->data + old, bytes, len);
    slab->used = old + len;
    drop_input(s);
    s->in.slab = slab;
    s->in.begin = slab->data;
    s->in.end = slab->data + old + len;
    s->last_read_ms = world.now_ms;
    if (s->reading)
        s->handler->on_data(s);
}

uint8_t *stream_input(const struct stream *s, size_t *len)
{
    *len = (size_t)(s->in.end - s->in.begin);
    return s->in.begin;
}

void stream_consume(struct stream *s, size_t len)
{
    s->in.begin += len;
    if (s->in.begin == s->in.end)
        drop_input(s);
}

void stream_expect(struct stream *s, size_t len)
{
    s->in.expected = len;
}

void stream_pause(struct stream *s)
{
    s->reading = false;
}

void stream_resume(struct stream *s)
{
    s->reading = !s->closing;
}

enum stream_peer stream_look_at_peer(const struct stream *s)
{
    return s->ended ? STREAM_PEER_ENDED : STREAM_PEER_THERE;
}

void world_end_stream(struct stream *s, int status)
{
    struct wire *w = wire_of(s);
    if (!w->open && !w->connecting)
        return;
    w->open = w->connecting = false;
    s->ended = true;
    if (!s->closing)
        s->handler->on_end(s, status);
}

/* ---- writing ---- */

void stream_write_copy(struct stream *s, const void *bytes, size_t len)
{
    struct wire *w = wire_of(s);
    if (s->closing)
        return;
    w->written = realloc(w->written, w->written_len + len);
    memcpy(w->written + w->written_len, bytes, len);
    w->written_len += len;
    s->out.count = 1;
    s->last_write_ms = world.now_ms;
}

void stream_write_span(struct stream *s, struct slab *slab, uint8_t *at, size_t len)
{
    assert_true(at >= slab->data && at + len <= slab->data + slab->capacity);
    stream_write_copy(s, at, len);
}

void stream_flush(struct stream *s)
{
    (void)s;
}

void net_flush(struct net *net)
{
    (void)net;
}

size_t stream_held_bytes(const struct stream *s)
{
    return slab_share(s->in.slab) + wire_of(s)->written_len;
}

void stream_rest(struct stream *s)
{
    (void)s;
}

/* ---- life ---- */

void net_init(struct net *net, uv_loop_t *loop)
{
    *net = (struct net){.loop = loop};
    list_init(&net->unflushed);
}

void net_close(struct net *net)
{
    (void)net;
}

void stream_init(struct stream *s, struct net *net, const struct stream_handler *handler)
{
    *s = (struct stream){.net = net, .handler = handler};
    unsigned i = 0;
    while (wires[i])
        assert_true(++i < STREAMS_MAX);
    wires[i] = calloc(1, sizeof *wires[i]);
    wires[i]->stream = s;
}

void stream_use_tls(struct stream *s, struct tls_context *context, const char *host)
{
    (void)s, (void)context, (void)host;
}

const char *stream_why(const struct stream *s, int status)
{
    (void)s;
    return uv_strerror(status);
}

int stream_accept(struct stream *s, uv_stream_t *listener)
{
    (void)listener;
    struct wire *w = wire_of(s);
    w->accepted = w->open = s->reading = true;
    s->last_read_ms = s->last_write_ms = world.now_ms;
    return 0;
}

int stream_connect(struct stream *s, const struct sockaddr *address)
{
    (void)address;
    wire_of(s)->connecting = true;
    return 0;
}

void stream_close(struct stream *s)
{
    s->closing = true;
    s->reading = false;
}

static bool run_one(unsigned i)
{
    struct wire *w = wires[i];
    struct stream *s = w->stream;
    if (s->closing) {
        drop_input(s);
        drop_wire(i);
        s->handler->on_closed(s);
        return true;
    }
    if (w->connecting && !broker.is_slow_to_accept) {
        w->connecting = false;
        w->open = s->reading = broker.is_there;
        s->last_read_ms = s->last_write_ms = world.now_ms;
        s->handler->on_connected(s, broker.is_there ? 0 : UV_ECONNREFUSED);
        return true;
    }
    return false;
}

/* ---- libuv ---- */

uint64_t uv_now(const uv_loop_t *loop)
{
    (void)loop;
    return world.now_ms;
}

uint64_t uv_hrtime(void)
{
    return world.now_ms * 1000000;
}

int uv_getaddrinfo(uv_loop_t *loop, uv_getaddrinfo_t *request, uv_getaddrinfo_cb callback,
                   const char *node, const char *service, const struct addrinfo *hints)
{
    (void)loop, (void)node, (void)service, (void)hints;
    unsigned i = 0;
    while (lookups[i].request)
        assert_true(++i < 16);
    lookups[i].request = request;
    lookups[i].callback = callback;
    return 0;
}

int uv_cancel(uv_req_t *request)
{
    (void)request; /* its callback comes all the same */
    return 0;
}

void uv_freeaddrinfo(struct addrinfo *addresses)
{
    (void)addresses;
}

int uv_timer_init(uv_loop_t *loop, uv_timer_t *timer)
{
    (void)loop;
    unsigned i = 0;
    while (timers[i].timer)
        assert_true(++i < TIMERS_MAX);
    timers[i].timer = timer;
    timers[i].callback = NULL;
    return 0;
}

static unsigned timer_index(const uv_timer_t *timer)
{
    unsigned i = 0;
    while (timers[i].timer != timer)
        assert_true(++i < TIMERS_MAX);
    return i;
}

int uv_timer_start(uv_timer_t *timer, uv_timer_cb callback, uint64_t timeout, uint64_t repeat)
{
    assert_int_equal(repeat, 0);
    unsigned i = timer_index(timer);
    timers[i].callback = callback;
    timers[i].due_ms = world.now_ms + timeout;
    return 0;
}

int uv_timer_stop(uv_timer_t *timer)
{
    timers[timer_index(timer)].callback = NULL;
    return 0;
}

int uv_is_active(const uv_handle_t *handle)
{
    return timers[timer_index((const uv_timer_t *)handle)].callback != NULL;
}

uint64_t uv_timer_get_due_in(const uv_timer_t *timer)
{
    uint64_t due_ms = timers[timer_index(timer)].due_ms;
    return due_ms > world.now_ms ? due_ms - world.now_ms : 0;
}

/* Of timers alone. */
void uv_close(uv_handle_t *handle, uv_close_cb callback)
{
    timers[timer_index((const uv_timer_t *)handle)].timer = NULL;
    callback(handle);
}

int uv_tcp_getpeername(const uv_tcp_t *tcp, struct sockaddr *name, int *len)
{
    (void)tcp, (void)name, (void)len;
    return UV_ENOTCONN;
}

bool world_streams_run(void)
{
    static struct sockaddr_storage address;
    static struct addrinfo found = {.ai_addr = (struct sockaddr *)&address};
    bool ran = false;
    for (unsigned i = 0; i < 16; i++) {
        uv_getaddrinfo_t *request = lookups[i].request;
        if (!request)
            continue;
        lookups[i].request = NULL;
        lookups[i].callback(request, 0, &found);
        ran = true;
    }
    for (unsigned i = 0; i < TIMERS_MAX; i++) {
        uv_timer_cb callback = timers[i].timer ? timers[i].callback : NULL;
        if (!callback || timers[i].due_ms > world.now_ms)
            continue;
        timers[i].callback = NULL;
        callback(timers[i].timer);
        ran = true;
    }
    for (unsigned i = 0; i < STREAMS_MAX; i++)
        ran = (wires[i] && run_one(i)) || ran;
    return ran;
}
