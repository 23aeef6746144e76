#include "amqp/message.h"

#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "amqp/frame.h"
#include "amqp/wire.h"
#include "base/assert.h"

void message_init(struct message *message)
{
    *message = (struct message){.body_capacity = 1};
    message->body = &message->body_one;
}

void message_move(struct message *to, struct message *from)
{
    *to = *from;
    if (from->body == &from->body_one)
        to->body = &to->body_one;
    message_init(from);
}

static struct span span_copy(const struct span *span)
{
    if (span->slab)
        slab_ref(span->slab);
    return *span;
}

bool message_copy(struct message *to, const struct message *from)
{
    struct span *body = NULL;
    if (from->body_count > 1) {
        body = malloc(from->body_count * sizeof *body);
        if (!body)
            return false;
    }
    message_init(to);
    if (body) {
        to->body = body;
        to->body_capacity = from->body_count;
    }
    to->method = span_copy(&from->method);
    to->header = span_copy(&from->header);
    for (uint32_t i = 0; i < from->body_count; i++)
        to->body[i] = span_copy(&from->body[i]);
    to->body_count = from->body_count;
    to->body_size = from->body_size;
    return true;
}

void message_clear(struct message *message)
{
    span_clear(&message->method);
    span_clear(&message->header);
    for (uint32_t i = 0; i < message->body_count; i++)
        span_clear(&message->body[i]);
    if (message->body != &message->body_one)
        free(message->body);
    message_init(message);
}

static bool follows(const struct span *span, const struct span *before)
{
    return span->slab == before->slab &&
           span->at == before->at + before->len + FRAME_OVERHEAD_BYTES;
}

uint8_t *message_adjacent(const struct message *m)
{
    bool adjacent = follows(&m->header, &m->method) &&
                    (m->body_count == 0 || (m->body_count == 1 && follows(m->body, &m->header)));
    return adjacent ? m->method.at - FRAME_HEAD_BYTES : NULL;
}

/* The payload of the frame at `at`. */
static struct span view_frame(struct slab *slab, uint8_t *at)
{
    return (struct span){slab, at + FRAME_HEAD_BYTES, wire_get32(at + 3)};
}

void message_view_adjacent(struct message *m, struct slab *slab, uint8_t *at)
{
    enum { BODY_SIZE_AT = 4 }; /* in a content header, behind class and weight */
    message_init(m);
    m->method = view_frame(slab, at);
    m->header = view_frame(slab, m->method.at + m->method.len + 1);
    m->body_size = wire_get64(m->header.at + BODY_SIZE_AT);
    if (m->body_size > 0)
        m->body[m->body_count++] = view_frame(slab, m->header.at + m->header.len + 1);
}

void message_of_adjacent(struct message *m, struct slab *slab, uint8_t *at)
{
    message_view_adjacent(m, slab, at);
    slab->refs += 2 + m->body_count;
}

size_t message_bytes(const struct message *message)
{
    return message->method.len + message->header.len + message->body_size;
}

size_t message_held_bytes(const struct message *message)
{
    size_t held = slab_share(message->method.slab) + slab_share(message->header.slab);
    for (uint32_t i = 0; i < message->body_count; i++)
        held += slab_share(message->body[i].slab);
    return held;
}

size_t message_body_iov(const struct message *message, struct iovec *out, size_t capacity)
{
    for (uint32_t i = 0; i < message->body_count && i < capacity; i++)
        out[i] = (struct iovec){.iov_base = message->body[i].at, .iov_len = message->body[i].len};
    return message->body_count;
}

static size_t payload_max(uint32_t frame_max)
{
    ENSURE(frame_max == 0 || frame_max >= FRAME_MIN_SIZE);
    return (frame_max == 0 ? UINT32_MAX : frame_max) - FRAME_OVERHEAD_BYTES;
}

static size_t pieces_of(uint64_t len, size_t piece_max)
{
    return (size_t)(len / piece_max) + (len % piece_max != 0);
}

/* The bytes collected for the next call of emit. */
struct run {
    message_emit emit;
    void *arg;
    struct slab *slab;
    uint8_t *at;
    size_t len;
};

static void run_flush(struct run *run)
{
    if (run->len > 0)
        run->emit(run->arg, run->slab, run->at, run->len);
}

static inline void run_add(struct run *run, struct slab *slab, uint8_t *at, size_t len)
{
    if (slab == run->slab && at == run->at + run->len) {
        run->len += len;
        return;
    }
    run_flush(run);
    run->slab = slab;
    run->at = at;
    run->len = len;
}

static inline void run_add_frame(struct run *run, const struct span *payload, uint16_t channel)
{
    frame_set_channel(payload->at, channel);
    run_add(run, payload->slab, payload->at - FRAME_HEAD_BYTES,
            payload->len + FRAME_OVERHEAD_BYTES);
}

/* Heads and end octets of the new frames stand one after the other in `heads`, so that an end
 * octet and the head behind it are one run. The frame's own head stays as it is: the span may be
 * framed again, uncut. */
static void run_add_cut(struct run *run, const struct span *payload, uint16_t channel,
                        size_t piece_max, struct slab *heads)
{
    for (size_t off = 0; off < payload->len;) {
        size_t piece = payload->len - off < piece_max ? payload->len - off : piece_max;
        ENSURE(heads && heads->capacity - heads->used >= FRAME_OVERHEAD_BYTES);
        uint8_t *head = heads->data + heads->used;
        heads->used += FRAME_OVERHEAD_BYTES;
        frame_put_head(head, FRAME_BODY, channel, (uint32_t)piece);
        head[FRAME_HEAD_BYTES] = FRAME_END;
        run_add(run, heads, head, FRAME_HEAD_BYTES);
        run_add(run, payload->slab, payload->at + off, piece);
        run_add(run, heads, head + FRAME_HEAD_BYTES, 1);
        off += piece;
    }
}

static size_t pieces_cut(const struct message *message, size_t piece_max)
{
    size_t pieces = 0;
    for (uint32_t i = 0; i < message->body_count; i++) {
        if (message->body[i].len > piece_max)
            pieces += pieces_of(message->body[i].len, piece_max);
    }
    return pieces;
}

bool message_frame(struct message *message, uint16_t channel, uint32_t frame_max, message_emit emit,
                   void *arg)
{
    size_t piece_max = payload_max(frame_max);
    ENSURE(message->method.slab && frame_fits(message->method.len, frame_max));
    ENSURE(message->header.slab);
    if (!frame_fits(message->header.len, frame_max))
        return false;
    size_t pieces = pieces_cut(message, piece_max);
    struct slab *heads = NULL;
    if (pieces > 0) {
        heads = slab_new(pieces * FRAME_OVERHEAD_BYTES);
        if (!heads)
            return false;
    }
    struct run run = {.emit = emit, .arg = arg};
    run_add_frame(&run, &message->method, channel);
    run_add_frame(&run, &message->header, channel);
    for (uint32_t i = 0; i < message->body_count; i++) {
        if (message->body[i].len <= piece_max)
            run_add_frame(&run, &message->body[i], channel);
        else
            run_add_cut(&run, &message->body[i], channel, piece_max, heads);
    }
    run_flush(&run);
    if (heads)
        slab_unref(heads);
    return true;
}

size_t message_framed_size(size_t method_len, size_t header_len, uint64_t body_size,
                           uint32_t frame_max)
{
    size_t frames = 2 + pieces_of(body_size, payload_max(frame_max));
    return method_len + header_len + (size_t)body_size + frames * FRAME_OVERHEAD_BYTES;
}

/* Reads a body that lies in parts. */
struct parts {
    const struct iovec *part;
    size_t count, off; /* parts from `part` on; bytes of the first that were read */
};

static void parts_read(struct parts *parts, uint8_t *out, size_t len)
{
    while (len > 0) {
        ENSURE(parts->count > 0);
        size_t left = parts->part->iov_len - parts->off;
        size_t n = left < len ? left : len;
        if (n > 0)
            memcpy(out, (const uint8_t *)parts->part->iov_base + parts->off, n);
        out += n;
        len -= n;
        parts->off += n;
        if (parts->off == parts->part->iov_len) {
            parts->part++;
            parts->count--;
            parts->off = 0;
        }
    }
}

static size_t write_whole(uint8_t *out, uint8_t type, uint16_t channel, const struct iovec *payload)
{
    memcpy(out + FRAME_HEAD_BYTES, payload->iov_base, payload->iov_len);
    return frame_wrap(out, type, channel, (uint32_t)payload->iov_len);
}

size_t message_write(uint8_t *out, uint16_t channel, uint32_t frame_max, const struct iovec *method,
                     const struct iovec *header, const struct iovec *body, size_t body_count)
{
    size_t piece_max = payload_max(frame_max);
    if (!frame_fits(method->iov_len, frame_max) || !frame_fits(header->iov_len, frame_max))
        return 0;
    uint8_t *at = out;
    at += write_whole(at, FRAME_METHOD, channel, method);
    at += write_whole(at, FRAME_HEADER, channel, header);
    uint64_t left = 0;
    for (size_t i = 0; i < body_count; i++)
        left += body[i].iov_len;
    struct parts parts = {.part = body, .count = body_count};
    while (left > 0) {
        size_t piece = left < piece_max ? (size_t)left : piece_max;
        parts_read(&parts, at + FRAME_HEAD_BYTES, piece);
        at += frame_wrap(at, FRAME_BODY, channel, (uint32_t)piece);
        left -= piece;
    }
    return (size_t)(at - out);
}
