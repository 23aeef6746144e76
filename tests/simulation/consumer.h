#pragma once

/* A client's channel as a reader: it takes what RabbitMQ sends there, and settles it in a manner of
 * its own. */

#include <stdbool.h>
#include <stdint.h>

#include "deliveries.h"
#include "talker.h"

enum settling {
    SETTLE_EACH,  /* ack, one by one */
    SETTLE_SOME,  /* several with one ack */
    SETTLE_MIXED, /* ack, nack, reject */
    SETTLE_LATE,  /* when it is told to, all at once */
    SETTLINGS,
};

/* Zeroed: nothing is read. `login`, `settling` and `number` are its owner's to set. */
struct consumer_channel {
    unsigned login;
    uint16_t number;
    enum settling settling;
    unsigned tags, consumers; /* consumer tags that were ever used; consumers that are there */
    unsigned taken_count;
    struct taken taken;
    /* what is coming in */
    bool is_inside;
    char consumer[24];
    uint64_t tag, size, len;
    uint8_t *body;
};

void consumer_deinit(struct consumer_channel *);
/* A tag for the next consumer of the client with this number; valid until the next call. */
const char *consumer_next_tag(struct consumer_channel *, unsigned client);
/* basic.deliver, get-ok, cancel, cancel-ok, or content behind it. False: it is none of these. */
bool consumer_hear(struct consumer_channel *, struct talker *, const struct frame *);
/* Settles nothing more: its channel is being closed. */
void consumer_close(struct consumer_channel *);
/* Settles all that it has. */
void consumer_settle_all(struct consumer_channel *, struct talker *);
