/* A relay that makes a broker far away.
 *
 * usage: delay PORT BROKER_PORT ROUND_TRIP_MS
 *
 * What is read from either side is written to the other one half of the round trip later. No more
 * than HELD_MAX bytes are on their way in one direction, as much as Linux lets one socket have
 * unacknowledged (net.ipv4.tcp_wmem). */

#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uv.h>

enum { CHUNK_BYTES = 64 * 1024, HELD_MAX = 4 * 1024 * 1024 };

struct chunk {
    uv_write_t write;
    struct chunk *next;
    struct side *from;
    uint64_t due_ms;
    size_t len;
    char bytes[CHUNK_BYTES];
};

/* One of the two sockets of a connection, and what was read from it. */
struct side {
    uv_tcp_t socket;
    uv_timer_t timer;
    struct side *other;
    struct chunk *first, **last;
    struct chunk *reading;
    size_t held;
    bool is_paused, is_closed;
};

static uv_loop_t *loop;
static uint64_t delay_ms;
static struct sockaddr_in broker;

static void close_pair(struct side *side)
{
    for (int i = 0; i < 2; i++, side = side->other) {
        if (side->is_closed)
            continue;
        side->is_closed = true;
        uv_close((uv_handle_t *)&side->socket, NULL);
        uv_close((uv_handle_t *)&side->timer, NULL);
    }
}

static void allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    struct side *side = handle->data;
    if (!side->reading)
        side->reading = malloc(sizeof *side->reading);
    *buf = uv_buf_init(side->reading ? side->reading->bytes : NULL, CHUNK_BYTES);
}

static void read_on(struct side *side);

static void on_written(uv_write_t *write, int status)
{
    struct chunk *chunk = write->data;
    struct side *from = chunk->from;
    from->held -= chunk->len;
    free(chunk);
    if (status != 0)
        close_pair(from);
    else if (from->is_paused && from->held < HELD_MAX / 2 && !from->is_closed)
        read_on(from);
}

static void on_shut(uv_shutdown_t *shutdown, int status)
{
    (void)status;
    struct side *other = shutdown->data;
    free(shutdown);
    if (!other->other->first && !uv_is_readable((uv_stream_t *)&other->socket))
        close_pair(other);
}

/* Writes what is due. An empty chunk is the end. */
static void on_due(uv_timer_t *timer)
{
    struct side *from = timer->data;
    while (from->first && from->first->due_ms <= uv_now(loop)) {
        struct chunk *chunk = from->first;
        from->first = chunk->next;
        if (!from->first)
            from->last = &from->first;
        uv_buf_t buf = uv_buf_init(chunk->bytes, (unsigned)chunk->len);
        chunk->write.data = chunk;
        if (chunk->len > 0) {
            uv_write(&chunk->write, (uv_stream_t *)&from->other->socket, &buf, 1, on_written);
            continue;
        }
        free(chunk);
        uv_shutdown_t *shutdown = malloc(sizeof *shutdown);
        if (!shutdown)
            abort();
        shutdown->data = from->other;
        if (uv_shutdown(shutdown, (uv_stream_t *)&from->other->socket, on_shut) != 0) {
            free(shutdown);
            close_pair(from);
            return;
        }
    }
    if (from->first)
        uv_timer_start(timer, on_due, from->first->due_ms - uv_now(loop), 0);
}

static void on_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf)
{
    (void)buf;
    struct side *side = stream->data;
    if (len == 0)
        return;
    struct chunk *chunk = side->reading;
    side->reading = NULL;
    if (len < 0)
        uv_read_stop(stream);
    chunk->len = len > 0 ? (size_t)len : 0;
    chunk->from = side;
    chunk->next = NULL;
    chunk->due_ms = uv_now(loop) + delay_ms;
    side->held += chunk->len;
    *side->last = chunk;
    side->last = &chunk->next;
    if (side->first == chunk)
        uv_timer_start(&side->timer, on_due, delay_ms, 0);
    if (len > 0 && side->held >= HELD_MAX) {
        side->is_paused = true;
        uv_read_stop(stream);
    }
}

static void read_on(struct side *side)
{
    side->is_paused = false;
    uv_read_start((uv_stream_t *)&side->socket, allocate, on_read);
}

static struct side *side_new(void)
{
    struct side *side = calloc(1, sizeof *side);
    if (!side || uv_tcp_init(loop, &side->socket) != 0 || uv_timer_init(loop, &side->timer) != 0)
        abort();
    side->socket.data = side->timer.data = side;
    side->last = &side->first;
    uv_tcp_nodelay(&side->socket, 1);
    return side;
}

static void on_connected(uv_connect_t *connect, int status)
{
    struct side *side = connect->data;
    free(connect);
    if (status != 0) {
        close_pair(side);
        return;
    }
    read_on(side);
    read_on(side->other);
}

/* A handshake of TCP takes a round trip as well. */
static void on_connect_due(uv_timer_t *timer)
{
    struct side *side = timer->data;
    uv_connect_t *connect = malloc(sizeof *connect);
    if (!connect)
        abort();
    connect->data = side->other;
    if (uv_tcp_connect(connect, &side->other->socket, (const struct sockaddr *)&broker,
                       on_connected) != 0)
        abort();
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct side *side = side_new(), *other = side_new();
    side->other = other;
    other->other = side;
    if (status != 0 || uv_accept(listener, (uv_stream_t *)&side->socket) != 0)
        abort();
    uv_timer_start(&side->timer, on_connect_due, 2 * delay_ms, 0);
}

int main(int count, char **words)
{
    if (count != 4) {
        fprintf(stderr, "usage: delay PORT BROKER_PORT ROUND_TRIP_MS\n");
        return 2;
    }
    loop = uv_default_loop();
    delay_ms = strtoul(words[3], NULL, 10) / 2;
    uv_ip4_addr("127.0.0.1", atoi(words[2]), &broker);
    struct sockaddr_in address;
    uv_ip4_addr("127.0.0.1", atoi(words[1]), &address);
    uv_tcp_t listener;
    if (uv_tcp_init(loop, &listener) != 0 ||
        uv_tcp_bind(&listener, (const struct sockaddr *)&address, 0) != 0 ||
        uv_listen((uv_stream_t *)&listener, 4096, on_connection) != 0) {
        fprintf(stderr, "delay: cannot listen on port %s\n", words[1]);
        return 1;
    }
    return uv_run(loop, UV_RUN_DEFAULT);
}
