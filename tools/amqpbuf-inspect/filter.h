#pragma once

/* Which messages a command is about: the FILTER options of list and dump. */

#include <stdbool.h>
#include <stdint.h>

#include "amqpbuf/spool_reader.h"
#include "json/routing.h"

struct filter {
    bool has_queue;
    uint32_t queue;
    const char *user, *vhost, *exchange, *routing_key; /* NULL: any */
    uint64_t since_us;                                 /* received at or after; 0: any */
    uint64_t until_us;                                 /* received before; UINT64_MAX: any */
    uint64_t after;                                    /* sequence number, in each queue */
    uint64_t limit;                                    /* messages in all; UINT64_MAX: no limit */
    bool rejected; /* the rejected list instead of the waiting one */
};

enum filter_option {
    FILTER_QUEUE = 256, /* beyond the letters of short options */
    FILTER_USER,
    FILTER_VHOST,
    FILTER_EXCHANGE,
    FILTER_ROUTING_KEY,
    FILTER_SINCE,
    FILTER_UNTIL,
    FILTER_AFTER,
    FILTER_LIMIT,
    FILTER_REJECTED,
    FILTER_END,
};

/* Lets everything through. */
void filter_init(struct filter *);
/* Takes an option; `value`, NULL for FILTER_REJECTED, must outlive the filter. Returns NULL, or
 * what would have been right: "a queue's number". */
const char *filter_set(struct filter *, enum filter_option, const char *value, uint64_t now_us);

bool filter_wants_queue(const struct filter *, uint32_t id, const char *user, const char *vhost);
/* The limit and `after` are the caller's to keep. */
bool filter_wants_record(const struct filter *, const struct reader_record *,
                         const struct routing *);

/* Decimal digits alone, no more than max. */
bool number_parse(const char *text, uint64_t max, uint64_t *number);
