#include "peer/send.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/frame.h"
#include "amqp/wire.h"
#include "base/assert.h"

void wire_send(struct stream *s, uint16_t channel, amqp_method_number_t method, const void *fields)
{
    uint8_t frame[FRAME_MIN_SIZE];
    size_t size = method_encode(frame, sizeof frame, channel, method, fields);
    ENSURE(size > 0); /* short strings and numbers, of which none fills a frame */
    stream_write_copy(s, frame, size);
}

bool wire_send_within(struct stream *s, uint32_t frame_max, uint16_t channel,
                      amqp_method_number_t method, const void *fields)
{
    size_t size = 0;
    for (size_t capacity = FRAME_MIN_SIZE;; capacity *= 2) {
        bool last = capacity >= frame_max;
        uint8_t *frame = malloc(last ? frame_max : capacity);
        if (!frame)
            return false;
        size = method_encode(frame, last ? frame_max : capacity, channel, method, fields);
        if (size > 0)
            stream_write_copy(s, frame, size);
        explicit_bzero(frame, last ? frame_max : capacity); /* it may hold a password */
        free(frame);
        if (size > 0 || last)
            break;
    }
    return size > 0;
}

void wire_send_plain(struct stream *s, uint16_t channel, amqp_method_number_t method)
{
    static const uint8_t zeros[256];
    wire_send(s, channel, method, zeros);
}

void wire_send_confirm(struct stream *s, uint16_t channel, uint64_t tag, bool multiple, bool nack)
{
    enum { PAYLOAD = 4 + 8 + 1 };
    uint8_t frame[PAYLOAD + FRAME_OVERHEAD_BYTES];
    uint8_t *payload = frame + FRAME_HEAD_BYTES;
    wire_put32(payload, nack ? AMQP_BASIC_NACK_METHOD : AMQP_BASIC_ACK_METHOD);
    wire_put64(payload + 4, tag);
    payload[12] = multiple;
    stream_write_copy(s, frame, frame_wrap(frame, FRAME_METHOD, channel, PAYLOAD));
}

void wire_send_heartbeat(struct stream *s)
{
    static const uint8_t frame[] = {FRAME_HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END};
    stream_write_copy(s, frame, sizeof frame);
}

void wire_send_close_bytes(struct stream *s, uint16_t channel, uint16_t code, amqp_bytes_t text,
                           amqp_method_number_t cause)
{
    if (text.len > UINT8_MAX)
        text.len = UINT8_MAX; /* a short string holds no more */
    /* Both methods have the same fields in the same order. */
    amqp_connection_close_t close = {
        .reply_code = code,
        .reply_text = text,
        .class_id = (uint16_t)(cause >> 16),
        .method_id = (uint16_t)cause,
    };
    wire_send(s, channel, channel == 0 ? AMQP_CONNECTION_CLOSE_METHOD : AMQP_CHANNEL_CLOSE_METHOD,
              &close);
}

void wire_send_close(struct stream *s, uint16_t channel, uint16_t code, const char *text,
                     amqp_method_number_t cause)
{
    wire_send_close_bytes(s, channel, code, bytes_of(text), cause);
}
