#pragma once

/* A publish in one form everywhere: method payload, content header payload, body, as spans of
 * reference-counted slabs. Spans that came from the wire keep their frame around them (7 bytes
 * before, the end octet after), so that a message which arrived in adjacent frames is forwarded as
 * one run of bytes with nothing but its channel numbers rewritten. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slab.h"

struct message {
    struct span method, header;
    struct span *body; /* body frames' payloads in order; &body_one for a single one */
    uint32_t body_count, body_capacity;
    struct span body_one;
    uint64_t body_size; /* bytes, as the content header says */
};

struct iovec;

void message_init(struct message *);
/* Moves; `from` is empty afterwards. */
void message_move(struct message *to, struct message *from);
/* Takes references of its own to the same bytes. False when memory is short. */
bool message_copy(struct message *to, const struct message *from);
void message_clear(struct message *);
/* Bytes of method, header and body together, of a whole message. */
size_t message_bytes(const struct message *);
/* Fills out[0..capacity) with the pieces of the body; returns how many there are (body_count). */
size_t message_body_iov(const struct message *, struct iovec *out, size_t capacity);

/* The first byte of its frames if they are three or two that lie behind each other in one slab,
 * else NULL. */
uint8_t *message_adjacent(const struct message *);
/* The message whose frames lie so from `at` on, with references of its own to the slab. */
void message_of_adjacent(struct message *, struct slab *, uint8_t *at);
/* The same without references: not to be cleared or moved, and not to outlive them. */
void message_view_adjacent(struct message *, struct slab *, uint8_t *at);

/* The message's part in the slabs that hold its spans. */
size_t message_held_bytes(const struct message *);

/* Frames a message for the wire: calls `emit` for each run of bytes in order, adjacent frames as
 * one run. Method, header and body frames are rewritten in place to `channel` where they fit
 * frame_max (0: no limit); a body frame that does not fit is cut again into frames that do, their
 * heads written to a slab taken from slab_new. A header that does not fit frame_max cannot be cut,
 * and heads need memory: false, and nothing was emitted. `emit` takes no ownership: it refs what it
 * keeps. The bytes of spans and their lengths are as before afterwards, so a message can be framed
 * again, with another channel and frame_max. */
typedef void (*message_emit)(void *arg, struct slab *slab, uint8_t *at, size_t len);
bool message_frame(struct message *, uint16_t channel, uint32_t frame_max, message_emit emit,
                   void *arg);
/* Size in bytes of a message when it is framed. */
size_t message_framed_size(size_t method_len, size_t header_len, uint64_t body_size,
                           uint32_t frame_max);
/* Frames payloads that stand elsewhere (read back from the spool) into `out`, which
 * must hold message_framed_size bytes. Returns the bytes written, 0 if method or header do not
 * fit frame_max. */
size_t message_write(uint8_t *out, uint16_t channel, uint32_t frame_max, const struct iovec *method,
                     const struct iovec *header, const struct iovec *body, size_t body_count);
