#pragma once

/* Where a publish goes, decided from what is known at that moment. Decisions only: no state, no
 * I/O. router.c collects the facts and acts. */

#include <stdbool.h>

#include "pool/pool.h"

struct facts {
    enum pool_state pool;
    bool memory_is_short; /* listen.max_memory is reached */
    bool spools;          /* buffering is on, and the login has a queue */
    bool has_place;       /* in the queue, for this destination once that is known; or buffering
                             is off */
    bool disk_has_room;
    bool holds;         /* the queue is about to be empty: publishers wait for that */
    bool queue_retains; /* publishes of the login are at RabbitMQ, unconfirmed: each has a place */
    bool is_leaving;    /* the client was told to leave: what it publishes is stored */
    bool retains;       /* publishes of the client are at RabbitMQ, unconfirmed */
    bool channel_retains; /* the same of its channel */
    bool is_transactional;
    bool is_doubted; /* RabbitMQ owes confirms for the destination: its newer ones go behind those,
                        which are in the spool, whether or not more is stored there */
    bool is_blocked; /* an alarm: RabbitMQ does not read what the channel would send */
    bool is_direct;  /* a direct reply-to: not to be stored, and RabbitMQ is there for it */
};

enum way {
    WAY_ON, /* of a publish that begins: its content may come */
    WAY_LIVE,
    WAY_SPOOL,
    WAY_HELD,
    WAY_TRANSACTION,
    WAY_NACKED,      /* it is not taken; its publisher hears that, or has heard it already */
    WAY_LOST,        /* RabbitMQ is away, and nothing is buffered */
    WAY_BUFFER_FULL, /* spool.overflow says what becomes of it */
    WAY_DISK_FULL,   /* the same */
};

/* A publish begins: a first look, before a body is sent that nobody could keep. */
enum way way_of_begin(const struct facts *);
/* It is complete. */
enum way way_of_publish(const struct facts *);
