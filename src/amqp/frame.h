#pragma once

/* Frames of AMQP 0-9-1 (section 4.2.3): type (1), channel (2), payload length (4), payload, 0xCE.
 * Scanned and rewritten where they lie; nothing here copies or allocates. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FRAME_METHOD = 1,
    FRAME_HEADER = 2,
    FRAME_BODY = 3,
    FRAME_HEARTBEAT = 8,
    FRAME_HEAD_BYTES = 7,
    FRAME_OVERHEAD_BYTES = 8, /* head and end octet */
    FRAME_END = 0xCE,
    FRAME_MIN_SIZE = 4096, /* frame_max may not be negotiated below this */
};

struct frame {
    uint8_t type;
    uint16_t channel;
    uint32_t payload_len;
    uint8_t *payload; /* the head stands in the 7 bytes before it, the end octet after it */
};

enum frame_result {
    FRAME_COMPLETE,
    FRAME_PARTIAL,   /* more bytes are needed */
    FRAME_TOO_LARGE, /* does not fit frame_max: 501 */
    FRAME_BAD_END,   /* wrong end octet: 501 */
    FRAME_BAD_TYPE,  /* no such frame type: 501 */
};

/* What may be sent as one frame. frame_max is the negotiated size of a whole frame in bytes, 0 for
 * no limit; RabbitMQ holds the payload alone against it, for clients that miscount by the 8 bytes
 * around it. What is cut here keeps to the strict reading. */
static inline bool frame_fits(size_t payload_len, uint32_t frame_max)
{
    return frame_max == 0 || payload_len <= frame_max;
}

/* Scans one frame at the start of data[0..len). On FRAME_COMPLETE fills `frame`. Otherwise *need is
 * the size in bytes of the whole frame if its head is here, else FRAME_HEAD_BYTES. The limit and
 * the type are checked as soon as the head is here. */
enum frame_result frame_scan(uint8_t *data, size_t len, uint32_t frame_max, struct frame *frame,
                             size_t *need);

/* Rewrites the channel in the head before `payload`. */
static inline void frame_set_channel(uint8_t *payload, uint16_t channel)
{
    payload[-6] = (uint8_t)(channel >> 8);
    payload[-5] = (uint8_t)channel;
}

/* Writes head and end octet around a payload of len bytes that already stands at out + 7; returns
 * the size of the frame (len + 8). */
size_t frame_wrap(uint8_t *out, uint8_t type, uint16_t channel, uint32_t payload_len);

/* Writes the FRAME_HEAD_BYTES of a head alone. */
void frame_put_head(uint8_t *out, uint8_t type, uint16_t channel, uint32_t payload_len);
