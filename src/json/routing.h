#pragma once

/* What a record's method says about where it goes: enough to filter and to list, without the
 * properties and the body. */

#include <stdbool.h>
#include <stddef.h>

#include "amqp/method.h"
#include "amqpbuf/spool_reader.h"

struct name {
    bool present;      /* the method has such a field */
    const void *bytes; /* not terminated */
    size_t len;
};

struct routing {
    amqp_method_number_t number;
    struct name exchange; /* of exchange.bind: the source */
    struct name routing_key;
    struct name declared; /* what a declaration makes or binds */
    bool mandatory, immediate;
    const void *decoded; /* a declaration's method, decoded; NULL for a publish */
};

/* Takes the record's method apart. Names point into the record, `decoded` into the arena, until
 * the arena's next use. False if the method is not one that belongs in a record of this kind. */
bool routing_decode(struct routing *, const struct reader_record *, struct method_arena *);
