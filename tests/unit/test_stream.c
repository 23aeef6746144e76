#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/socket.h>

#include <cmocka.h>

#include "net/stream.h"

/* Units of a fixed size, filled with the sender's letter, are collected and held as spans. Bytes
 * are sent in pieces and in turn, so that beginnings of units of one stream lie between the bytes
 * of others when the shared slab is replaced. */

enum { STREAMS = 3, UNITS_MAX = 4096 };

struct peer {
    struct stream stream;
    int fd; /* our end */
    size_t unit;
    bool idle; /* takes nothing */
    struct span *units;
    size_t count;
    unsigned ends, writable; /* how often it was told */
    int status;
};

static uv_loop_t loop;
static struct net net;
static uv_prepare_t before_poll;
static struct peer peers[STREAMS];

static void on_data(struct stream *stream)
{
    struct peer *peer = LIST_ENTRY(stream, struct peer, stream);
    while (!peer->idle) {
        size_t len;
        uint8_t *data = stream_input(stream, &len);
        if (len < peer->unit) {
            stream_expect(stream, peer->unit);
            return;
        }
        assert_true(peer->count < UNITS_MAX);
        peer->units[peer->count++] = span_of(stream->in.slab, data, peer->unit);
        stream_consume(stream, peer->unit);
    }
}

static void on_end(struct stream *stream, int status)
{
    struct peer *peer = LIST_ENTRY(stream, struct peer, stream);
    peer->ends++;
    peer->status = status;
    stream_close(stream);
}

static void on_writable(struct stream *stream)
{
    LIST_ENTRY(stream, struct peer, stream)->writable++;
}

static void on_closed(struct stream *stream)
{
    (void)stream;
}

static const struct stream_handler handler = {
    .on_data = on_data, .on_writable = on_writable, .on_end = on_end, .on_closed = on_closed};

static void send_all(struct peer *peer, int letter, size_t len)
{
    uint8_t bytes[8192];
    memset(bytes, letter, sizeof bytes);
    while (len > 0) {
        size_t n = len < sizeof bytes ? len : sizeof bytes;
        ssize_t sent = send(peer->fd, bytes, n, MSG_DONTWAIT);
        if (sent > 0)
            len -= (size_t)sent;
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    /* Until the loop has nothing more to read: each piece is a read of its own. */
    for (int i = 0; i < 3; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
}

static void open_peer(struct peer *peer, size_t unit)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    *peer = (struct peer){.fd = fds[0], .unit = unit};
    peer->units = calloc(UNITS_MAX, sizeof *peer->units);
    stream_init(&peer->stream, &net, &handler);
    assert_int_equal(uv_tcp_open(&peer->stream.tcp, fds[1]), 0);
    stream_resume(&peer->stream);
}

static void close_peer(struct peer *peer)
{
    for (size_t i = 0; i < peer->count; i++)
        span_clear(&peer->units[i]);
    free(peer->units);
    stream_close(&peer->stream);
    if (peer->fd >= 0)
        close(peer->fd);
}

static void on_before_poll(uv_prepare_t *handle)
{
    (void)handle;
    net_flush(&net);
}

static int setup(void **state)
{
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    net_init(&net, &loop);
    assert_int_equal(uv_prepare_init(&loop, &before_poll), 0);
    assert_int_equal(uv_prepare_start(&before_poll, on_before_poll), 0);
    uv_unref((uv_handle_t *)&before_poll);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    uv_close((uv_handle_t *)&before_poll, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    net_close(&net);
    slab_trim();
    return 0;
}

static void check_units(const struct peer *peer, int letter, size_t count)
{
    assert_int_equal(peer->count, count);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < peer->unit; k++)
            assert_int_equal(peer->units[i].at[k], letter);
}

static void test_beginnings_between_the_bytes_of_others(void **state)
{
    (void)state;
    static const size_t sizes[STREAMS] = {1000, 3000, 100000};
    size_t sent[STREAMS] = {0};
    for (unsigned i = 0; i < STREAMS; i++)
        open_peer(&peers[i], sizes[i]);
    unsigned seed = 1;
    for (unsigned round = 0; round < 600; round++) {
        unsigned i = round % STREAMS;
        size_t piece = 1 + (seed = seed * 1103515245 + 12345) / 65536 % 9000;
        send_all(&peers[i], 'a' + (int)i, piece);
        sent[i] += piece;
    }
    for (unsigned i = 0; i < STREAMS; i++) {
        check_units(&peers[i], 'a' + (int)i, sent[i] / sizes[i]);
        close_peer(&peers[i]);
    }
}

/* The first half of a unit stays behind in a slab that is no longer the shared one; the bytes right
 * behind it are another stream's. */
static void test_beginning_left_behind_in_an_old_slab(void **state)
{
    (void)state;
    open_peer(&peers[0], 1000);
    open_peer(&peers[1], 3000);
    send_all(&peers[0], 'a', 500);
    size_t units = 2 * SLAB_BYTES / 3000;
    for (size_t i = 0; i < units; i++)
        send_all(&peers[1], 'b', 3000);
    assert_ptr_not_equal(peers[0].stream.in.slab, net.read_slab);
    send_all(&peers[0], 'a', 500);
    check_units(&peers[0], 'a', 1);
    check_units(&peers[1], 'b', units);
    close_peer(&peers[0]);
    close_peer(&peers[1]);
}

/* Many small units that the owner has not taken yet lie before the bytes of another stream, and
 * more of them than the shared slab has room for. */
static void test_units_that_were_not_taken_have_to_move(void **state)
{
    (void)state;
    enum { KIB = 1024 };
    open_peer(&peers[0], KIB);
    open_peer(&peers[1], KIB);
    peers[0].idle = true;
    send_all(&peers[0], 'a', 100 * KIB);
    send_all(&peers[1], 'b', 80 * KIB);
    send_all(&peers[0], 'a', KIB);
    peers[0].idle = false;
    send_all(&peers[0], 'a', KIB);
    check_units(&peers[0], 'a', 102);
    check_units(&peers[1], 'b', 80);
    close_peer(&peers[0]);
    close_peer(&peers[1]);
}

static void test_idle_stream_holds_no_slab(void **state)
{
    (void)state;
    open_peer(&peers[0], 10);
    send_all(&peers[0], 'x', 100);
    assert_int_equal(peers[0].count, 10);
    assert_null(peers[0].stream.in.slab);
    close_peer(&peers[0]);
}

/* The other end says its last words and is gone; what is written meets nobody. */
static void lose(struct peer *peer, size_t len)
{
    char bytes[1000];
    memset(bytes, 'x', sizeof bytes);
    open_peer(peer, 1000);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(send(peer->fd, bytes, sizeof bytes, 0), sizeof bytes);
    close(peer->fd);
    peer->fd = -1;
    struct slab *slab = slab_new(len);
    slab->used = len;
    stream_write_span(&peer->stream, slab, slab->data, len);
    slab_unref(slab);
    net_flush(&net);
}

static void test_failed_write_does_not_hide_what_was_sent_before(void **state)
{
    (void)state;
    struct peer *peer = &peers[0];
    lose(peer, STREAM_HIGH_BYTES + 1);
    assert_int_equal(peer->ends, 0);
    assert_int_equal(peer->writable,
                     1); /* who waits for it to send goes on, and hears of the end */
    assert_int_equal(peer->stream.out.bytes, 0);
    stream_write_copy(&peer->stream, "more", 4);
    assert_int_equal(peer->stream.out.bytes, 0);
    while (peer->ends == 0)
        uv_run(&loop, UV_RUN_ONCE);
    check_units(peer, 'x', 3);
    assert_int_equal(peer->status, UV_EPIPE);
    close_peer(peer);
    uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(peer->ends, 1);
}

/* Its owner has stopped reading before the end came: nothing but another write would tell. */
static void test_another_write_tells_who_has_stopped_reading(void **state)
{
    (void)state;
    struct peer *peer = &peers[0];
    lose(peer, 4);
    stream_pause(&peer->stream);
    net_flush(&net);
    assert_int_equal(peer->ends, 0);
    stream_write_copy(&peer->stream, "more", 4);
    net_flush(&net);
    assert_int_equal(peer->ends, 1);
    assert_int_equal(peer->status, UV_EPIPE);
    assert_int_equal(peer->stream.out.bytes, 0);
    close_peer(peer);
}

static void test_failed_write_of_a_stream_that_is_not_read_from(void **state)
{
    (void)state;
    struct peer *peer = &peers[0];
    open_peer(peer, 1000);
    stream_pause(&peer->stream);
    close(peer->fd);
    peer->fd = -1;
    stream_write_copy(&peer->stream, "more", 4);
    net_flush(&net);
    assert_int_equal(peer->ends, 1);
    assert_int_equal(peer->status, UV_EPIPE);
    close_peer(peer);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_beginnings_between_the_bytes_of_others, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_beginning_left_behind_in_an_old_slab, setup, teardown),
        cmocka_unit_test_setup_teardown(test_units_that_were_not_taken_have_to_move, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_idle_stream_holds_no_slab, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failed_write_does_not_hide_what_was_sent_before, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_another_write_tells_who_has_stopped_reading, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_failed_write_of_a_stream_that_is_not_read_from, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
