#pragma once

/* Who speaks AMQP over one end of a connection, on the other side of the proxy: bytes to frames and
 * back. What its owner says waits until the connection takes it. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqp/frame.h"
#include "amqp/method.h"
#include "link.h"

struct talker_events {
    void (*on_frame)(void *owner, struct frame *);
    /* The other side has gone, or does not speak AMQP; talker_close is still to be called. */
    void (*on_end)(void *owner, const char *why);
};

struct talker {
    struct end *end; /* NULL: closed */
    const struct talker_events *events;
    void *owner;
    uint8_t *out, *in;
    size_t out_len, out_capacity, in_len, in_capacity;
    bool is_deaf;        /* reads nothing */
    bool is_taking;      /* on_frame is above us */
    bool awaits_header;  /* "AMQP0091" first, as a frame of type 'A' */
    uint64_t said_bytes; /* since the beginning */
    uint64_t dies_at;    /* is gone for good behind so many bytes; 0: is not */
};

/* Takes the end over. */
void talker_begin(struct talker *, struct end *, const struct talker_events *, void *owner);
/* Gone without a word, for nobody to notice but the other side. */
void talker_close(struct talker *);
void talker_abort(struct talker *);
void talker_set_deaf(struct talker *, bool is_deaf);
void talker_say_bytes(struct talker *, const void *bytes, size_t len);
void talker_say(struct talker *, uint16_t channel, amqp_method_number_t, const void *fields);
/* A method without fields. */
void talker_say_plain(struct talker *, uint16_t channel, amqp_method_number_t);
/* Header and body, cut to frames of at most frame_max bytes. */
void talker_say_content(struct talker *, uint16_t channel, const uint8_t *header, size_t header_len,
                        const uint8_t *body, size_t len, uint32_t frame_max);
