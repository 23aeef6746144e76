#include "amqp/frame.h"

#include "amqp/wire.h"

static bool type_known(uint8_t type)
{
    switch (type) {
    case FRAME_METHOD:
    case FRAME_HEADER:
    case FRAME_BODY:
    case FRAME_HEARTBEAT:
        return true;
    default:
        return false;
    }
}

enum frame_result frame_scan(uint8_t *data, size_t len, uint32_t frame_max, struct frame *frame,
                             size_t *need)
{
    *need = FRAME_HEAD_BYTES;
    if (len < FRAME_HEAD_BYTES)
        return FRAME_PARTIAL;
    uint8_t type = data[0];
    uint32_t payload_len = wire_get32(data + 3);
    if (!type_known(type))
        return FRAME_BAD_TYPE;
    size_t size = (size_t)payload_len + FRAME_OVERHEAD_BYTES;
    *need = size;
    if (!frame_fits(payload_len, frame_max))
        return FRAME_TOO_LARGE;
    if (len < size)
        return FRAME_PARTIAL;
    if (data[size - 1] != FRAME_END)
        return FRAME_BAD_END;
    *frame = (struct frame){.type = type,
                            .channel = wire_get16(data + 1),
                            .payload_len = payload_len,
                            .payload = data + FRAME_HEAD_BYTES};
    return FRAME_COMPLETE;
}

size_t frame_wrap(uint8_t *out, uint8_t type, uint16_t channel, uint32_t payload_len)
{
    frame_put_head(out, type, channel, payload_len);
    out[FRAME_HEAD_BYTES + (size_t)payload_len] = FRAME_END;
    return (size_t)payload_len + FRAME_OVERHEAD_BYTES;
}

void frame_put_head(uint8_t *out, uint8_t type, uint16_t channel, uint32_t payload_len)
{
    out[0] = type;
    wire_put16(out + 1, channel);
    wire_put32(out + 3, payload_len);
}
