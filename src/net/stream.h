#pragma once

/* A byte stream over TCP, or over TLS over TCP, on the loop thread.
 *
 * Reading. Bytes land in reference-counted slabs; small reads of all streams share one slab, so
 * that an idle connection holds no buffer. The unread bytes of a stream are contiguous: the owner
 * looks at them with stream_input, takes what it understands with stream_consume, and says with
 * stream_expect how long the unit it waits for is. Spans it keeps hold the slab.
 *
 * Writing. stream_write_span queues bytes by reference, stream_write_copy by value; both are sent
 * together by net_flush. The queue has no limit of its own: above
 * STREAM_HIGH_BYTES stream_is_full says so, the owner stops producing, and on_writable is called
 * when the queue has fallen below STREAM_LOW_BYTES.
 *
 * The end is no news until all before it is taken: an owner that has paused with input unread hears
 * of it behind stream_resume. So it is if a write fails: what the peer has sent comes first. Where
 * nothing is read, the write tells.
 *
 * With TLS, what is queued waits for the end of the handshake, and a failure of TLS is an end with
 * UV_EPROTO, of which stream_why says more.
 *
 * Closing. stream_close may be called at any time after stream_init, any number of times; on_closed
 * is the last callback and comes exactly once. on_end comes at most once, never after
 * stream_close; its owner then calls stream_close. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "base/list.h"
#include "base/slab.h"
#include "net/in_buffer.h"
#include "net/out_ring.h"

enum { STREAM_HIGH_BYTES = 1024 * 1024, STREAM_LOW_BYTES = 256 * 1024 };

/* What all streams of a loop share. */
struct net {
    uv_loop_t *loop;
    struct slab *read_slab;  /* where small reads land */
    struct slab *write_slab; /* where copied bytes are gathered */
    uint8_t *cipher;         /* CIPHER_BYTES for what was read and is not decrypted yet; or NULL */
    struct list unflushed;   /* streams with bytes queued since the last flush */
    uint32_t stream_count;   /* of all, those that connect and those that are being closed too */
};

struct stream;
struct tls;
struct tls_context;

struct stream_handler {
    void (*on_connected)(struct stream *, int status); /* uv error or 0; after stream_connect */
    void (*on_data)(struct stream *);                  /* there is new input */
    void (*on_writable)(struct stream *);              /* was full, is no longer */
    void (*on_end)(struct stream *, int status);       /* 0: end of file; else a uv error */
    void (*on_closed)(struct stream *); /* the stream's memory is the owner's again */
};

struct stream {
    struct net *net;
    const struct stream_handler *handler;
    uv_tcp_t tcp;
    uv_write_t write;
    uv_connect_t connect;
    struct list unflushed; /* in net->unflushed */

    struct in_buffer in;
    struct out_ring out;

    uint64_t last_read_ms, last_write_ms; /* uv_now of the loop */
    uint64_t resumed_ms;                  /* after the last pause; 0: there was none */
    bool reading, writing, full, closing;
    bool broken;    /* a write has failed: nothing more is sent, and reading comes to the end */
    bool ended;     /* TLS has, while the owner had paused: on_end comes once it has resumed */
    int end_status; /* of either */

    struct tls *tls;  /* NULL: plain */
    uint8_t *sending; /* of TLS: what the socket has not taken yet; free */
};

void net_init(struct net *, uv_loop_t *);
/* Drops the shared slabs. */
void net_close(struct net *);
/* Writes what was queued since the last time, as far as sockets take it. Its owner calls it before
 * the loop polls, and again if the events of that have queued more. */
void net_flush(struct net *);

/* Prepares a stream in the owner's memory; from now on it must be closed. */
void stream_init(struct stream *, struct net *, const struct stream_handler *);
/* Takes a connection from a listening handle, starts reading. Returns a uv error or 0. */
int stream_accept(struct stream *, uv_stream_t *listener);
/* Connects; on_connected follows if it returns 0, and reading starts with success. */
int stream_connect(struct stream *, const struct sockaddr *);
void stream_close(struct stream *);
/* Before anything is read or written: speaks TLS. `host` as for tls_new. */
void stream_use_tls(struct stream *, struct tls_context *, const char *host);
/* Why it ended with this status, for a person; valid until the stream is closed. */
const char *stream_why(const struct stream *, int status);

uint8_t *stream_input(const struct stream *, size_t *len);
void stream_consume(struct stream *, size_t len);
void stream_expect(struct stream *, size_t len);
void stream_pause(struct stream *);  /* reads nothing more; what was read stays */
void stream_resume(struct stream *); /* reads again; does not call on_data for what is there */
/* Since when it reads without a pause (uv_now of the loop); UINT64_MAX: it does not. */
static inline uint64_t stream_reads_since(const struct stream *s)
{
    return s->reading ? s->resumed_ms : UINT64_MAX;
}

enum stream_peer {
    STREAM_PEER_THERE,
    STREAM_PEER_ENDED, /* it sends nothing more; what it has sent may be there to read */
    STREAM_PEER_LOST,  /* the connection is gone */
};
/* For a stream that is paused: nothing else would tell. */
enum stream_peer stream_look_at_peer(const struct stream *);

/* Memory too short for the queue aborts: spans are small. */
void stream_write_span(struct stream *, struct slab *, uint8_t *at, size_t len);
void stream_write_copy(struct stream *, const void *bytes, size_t len);
/* The stream's part in the slabs that hold its input and its output, and the buffers of TLS. */
size_t stream_held_bytes(const struct stream *);
/* To be called now and then: gives back the buffers of a stream on which nothing happens. */
void stream_rest(struct stream *);
/* Sends now what the socket takes. Errors come through on_end later. */
void stream_flush(struct stream *);

/* Its owner has stopped reading. */
static inline bool stream_is_paused(const struct stream *s)
{
    return !s->reading;
}
static inline bool stream_is_full(const struct stream *s)
{
    return s->full;
}
