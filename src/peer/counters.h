#pragma once

/* What is counted since the start, for whoever watches. Loop thread only. */

#include <stdint.h>

enum {
    COUNTED_CODES_MAX = 32,      /* kinds of refusals told apart; RabbitMQ knows about twenty */
    COUNTED_CODE_OTHER = 0xFFFF, /* all further ones */
};

struct counted_code {
    uint16_t code; /* RabbitMQ's reply code; 0: nacked */
    uint64_t count;
};

struct counters {
    uint64_t clients, upstreams; /* connections that are open now */
    uint64_t channels;           /* of clients, open now */
    uint64_t forwarded, spooled, drained;
    uint64_t unroutable; /* dropped: drained, and no queue was bound for them */
    uint64_t queue_full, login_refused;
    uint64_t rejected_exported, rejected_dropped; /* beyond the bound of a rejected list */
    struct counted_code rejected[COUNTED_CODES_MAX];
    unsigned rejected_codes; /* entries of `rejected` in use */
};

/* One more message refused with `code`. */
void counters_add_rejected(struct counters *, uint16_t code);
