#include "talker.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

static void flush(struct talker *t);
static void listen(struct talker *t);

static void on_readable(void *owner)
{
    listen(owner);
}

static void on_writable(void *owner)
{
    flush(owner);
}

static const struct end_handler handler = {on_readable, on_writable};

void talker_begin(struct talker *t, struct end *end, const struct talker_events *events,
                  void *owner)
{
    *t = (struct talker){.end = end, .events = events, .owner = owner};
    end_own(end, &handler, t);
}

static void forget(struct talker *t)
{
    free(t->out);
    free(t->in);
    t->out = t->in = NULL;
    t->out_len = t->in_len = t->out_capacity = t->in_capacity = 0;
    t->end = NULL;
}

void talker_close(struct talker *t)
{
    if (t->end)
        end_close(t->end);
    forget(t);
}

void talker_abort(struct talker *t)
{
    if (t->end)
        end_abort(t->end);
    forget(t);
}

void talker_set_deaf(struct talker *t, bool is_deaf)
{
    t->is_deaf = is_deaf;
    if (!is_deaf && t->end && !t->is_taking)
        listen(t);
}

/* ---- reading ---- */

static void grow(uint8_t **bytes, size_t *capacity, size_t needed)
{
    if (needed <= *capacity)
        return;
    *capacity = needed * 2;
    *bytes = realloc(*bytes, *capacity);
    ENSURE(*bytes);
}

/* How many bytes were taken by one frame; 0: it is not all here, or the talker is closed. */
static size_t take_one(struct talker *t, uint8_t *at, size_t len)
{
    enum { HEADER_BYTES = 8 };
    struct frame frame = {0};
    size_t need;
    if (t->awaits_header) {
        if (len < HEADER_BYTES)
            return 0;
        t->awaits_header = false;
        frame = (struct frame){.type = 'A', .payload = at, .payload_len = HEADER_BYTES};
        t->events->on_frame(t->owner, &frame);
        return HEADER_BYTES;
    }
    switch (frame_scan(at, len, 0, &frame, &need)) {
    case FRAME_COMPLETE:
        need = frame.payload_len + FRAME_OVERHEAD_BYTES;
        t->events->on_frame(t->owner, &frame);
        return need;
    case FRAME_PARTIAL:
        return 0;
    default:
        t->events->on_end(t->owner, "it does not speak AMQP");
        return 0;
    }
}

static void take_frames(struct talker *t)
{
    size_t at = 0, taken;
    t->is_taking = true;
    while (t->end && !t->is_deaf && (taken = take_one(t, t->in + at, t->in_len - at)) > 0)
        at += taken;
    t->is_taking = false;
    if (!t->end || at == 0)
        return;
    memmove(t->in, t->in + at, t->in_len - at);
    t->in_len -= at;
}

static void listen(struct talker *t)
{
    enum { PIECE_BYTES = 65536 };
    int64_t n = 1;
    take_frames(t);
    while (t->end && !t->is_deaf && n > 0) {
        grow(&t->in, &t->in_capacity, t->in_len + PIECE_BYTES);
        n = end_read(t->end, t->in + t->in_len, PIECE_BYTES);
        if (n == END_IS_RESET) {
            t->events->on_end(t->owner, "reset");
            return;
        }
        t->in_len += (size_t)n;
        take_frames(t);
    }
    if (t->end && !t->is_deaf && end_is_over(t->end))
        t->events->on_end(t->owner, "end of stream");
}

/* ---- writing ---- */

static void flush(struct talker *t)
{
    while (t->end && t->out_len > 0) {
        int64_t n = end_write(t->end, t->out, t->out_len);
        if (n == END_IS_RESET || n == 0)
            return; /* a reset is heard of by reading */
        t->out_len -= (size_t)n;
        memmove(t->out, t->out + n, t->out_len);
    }
}

void talker_say_bytes(struct talker *t, const void *bytes, size_t len)
{
    if (!t->end)
        return;
    if (t->dies_at && t->said_bytes + len > t->dies_at)
        len = t->dies_at > t->said_bytes ? t->dies_at - t->said_bytes : 0;
    grow(&t->out, &t->out_capacity, t->out_len + len);
    if (len > 0)
        memcpy(t->out + t->out_len, bytes, len);
    t->out_len += len;
    t->said_bytes += len;
    flush(t);
}

void talker_say(struct talker *t, uint16_t channel, amqp_method_number_t method, const void *fields)
{
    uint8_t frame[FRAME_MIN_SIZE];
    size_t size = method_encode(frame, sizeof frame, channel, method, fields);
    ENSURE(size > 0);
    talker_say_bytes(t, frame, size);
}

void talker_say_plain(struct talker *t, uint16_t channel, amqp_method_number_t method)
{
    static const uint8_t zeros[256];
    talker_say(t, channel, method, zeros);
}

static void say_frame(struct talker *t, uint8_t type, uint16_t channel, const uint8_t *payload,
                      size_t len)
{
    uint8_t head[FRAME_HEAD_BYTES];
    static const uint8_t end = FRAME_END;
    frame_put_head(head, type, channel, (uint32_t)len);
    talker_say_bytes(t, head, sizeof head);
    talker_say_bytes(t, payload, len);
    talker_say_bytes(t, &end, 1);
}

void talker_say_content(struct talker *t, uint16_t channel, const uint8_t *header,
                        size_t header_len, const uint8_t *body, size_t len, uint32_t frame_max)
{
    size_t most = frame_max - FRAME_OVERHEAD_BYTES;
    say_frame(t, FRAME_HEADER, channel, header, header_len);
    for (size_t at = 0; at < len && t->end; at += most)
        say_frame(t, FRAME_BODY, channel, body + at, len - at < most ? len - at : most);
}
