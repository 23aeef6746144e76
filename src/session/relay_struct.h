#pragma once

/* The struct of relay.h alone, for the files that relay.c is built on. */

#include <stdbool.h>
#include <stdint.h>

#include "amqp/content.h"
#include "amqp/method.h"
#include "peer/close_handshake.h"
#include "pool/append.h"
#include "session/awaited.h"
#include "session/consuming.h"
#include "session/retained.h"
#include "upstream/upstream.h"

struct channel;
struct pool;

struct relay {
    struct link link;
    struct pool *pool;
    struct channel *channel;     /* NULL: idle, or orphaned with publishes still unconfirmed */
    uint64_t client;             /* handle of whose publishes are retained; it may be gone */
    uint64_t orphan_until_ms;    /* without a channel, and not shared: when it is given up */
    struct returned *returned;   /* the basic.return that is arriving; NULL: there was none */
    struct span returned_header; /* of its content, once that is here */
    bool shared;
    uint64_t stamp;  /* of its channel.open */
    bool confirming; /* confirm.select was sent */
    bool nacked;     /* RabbitMQ has nacked on it, and may do so for ever: relay_is_spent */
    bool moves;      /* its channel goes on elsewhere, once all is answered: relay_move */
    bool forgets;    /* what was sent there is not retained: only close-ok shows that it was read */
    uint64_t stays_until_ms;
    bool transactional;
    enum close_state close; /* of the handshake with RabbitMQ; the number is kept until its end */
    uint64_t sent_tag;      /* RabbitMQ's delivery tag of the last publish */
    uint64_t mandatory_tag; /* and of the last mandatory one; 0: none */
    uint64_t unproven;      /* publishes that only close-ok proves: there are no confirms */

    struct unconfirmed unconfirmed;
    uint32_t open; /* of them, RETAINED_OPEN */
    struct calls calls;
    struct consuming consuming; /* of one that is not shared */
};
