#pragma once

/* What a channel in confirm mode still owes its client: one mark for each delivery tag from the
 * lowest one that is not answered.
 *
 * Publishes become safe in any order: RabbitMQ and the spool confirm out of turn. An answer covers
 * more than its own tag only from the lowest open tag on, and only what was taken; so it never
 * speaks for a publish that is still open, or that was refused. */

#include <stdbool.h>
#include <stdint.h>

struct ledger {
    uint8_t *marks;    /* ring; the first is of the tag answered + 1 */
    uint32_t capacity; /* 0 or a power of two */
    uint32_t first, count;
    uint64_t answered;  /* every tag up to this one was answered */
    uint32_t due;       /* tags that are decided and not told yet */
    uint64_t due_first; /* none of them is below this one */
};

/* One basic.ack or basic.nack. */
struct ledger_answer {
    uint64_t tag;
    bool multiple, nack;
};

/* All zeros is an empty ledger. */
void ledger_deinit(struct ledger *);
/* The tag that the next publish will have. */
uint64_t ledger_next_tag(const struct ledger *);
/* Accepts one more publish; returns its tag. */
uint64_t ledger_add(struct ledger *);
/* The publish is safe, or refused. False, and nothing changes, if its tag is not open. */
bool ledger_decide(struct ledger *, uint64_t tag, bool safe);
/* Takes out the next answer that is to be sent; false if there is none. */
bool ledger_take(struct ledger *, struct ledger_answer *);
