#include "spooler/framing.h"

#include <string.h>

#include "amqp/destination.h"
#include "amqp/frame.h"
#include "spool/store.h"

/* The last octet of basic.publish holds mandatory and immediate; returns whether it was set. */
static bool set_mandatory(uint8_t *last)
{
    bool was_set = *last & 1;
    *last |= 1;
    return was_set;
}

size_t framing_size(const struct framing *f, const struct store_record *record,
                    const struct iovec *header)
{
    return record->kind == RECORD_DECLARE
               ? record->method.iov_len + FRAME_OVERHEAD_BYTES
               : message_framed_size(record->method.iov_len, header->iov_len, record->body_size,
                                     f->frame_max);
}

static size_t write_declaration(const struct framing *f, const struct store_record *record,
                                uint8_t *at)
{
    size_t len = record->method.iov_len;
    if (!frame_fits(len, f->frame_max))
        return 0;
    memcpy(at + FRAME_HEAD_BYTES, record->method.iov_base, len);
    return frame_wrap(at, FRAME_METHOD, f->channel, (uint32_t)len);
}

struct job_record framing_write(const struct framing *f, const struct store_record *record,
                                const struct iovec *header, uint8_t *at)
{
    struct job_record out = {
        .seq = record->seq,
        .kind = record->kind,
        .received_at_us = record->received_at_us,
        .frames = at,
        .method_len = (uint32_t)record->method.iov_len,
        .header_len = (uint32_t)header->iov_len,
        .body_size = record->body_size,
    };
    if (record->kind == RECORD_DECLARE) {
        out.frames_len = write_declaration(f, record, at);
        return out;
    }
    out.destination = destination_of(record->method.iov_base, record->method.iov_len);
    out.frames_len = message_write(at, f->channel, f->frame_max, &record->method, header,
                                   record->body, record->body_count);
    if (f->mandatory && out.frames_len > 0)
        out.mandatory = set_mandatory(at + FRAME_HEAD_BYTES + out.method_len - 1);
    return out;
}
