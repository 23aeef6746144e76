#pragma once

/* The records that a drain has sent and that are still in the queue, in sequence order: those that
 * RabbitMQ has not answered for, and those that it has while they are being deleted. */

#include <stdbool.h>
#include <stdint.h>

#include "proxy/job.h"
#include "proxy/returned.h"
#include "proxy/suspect.h"

enum sent_state {
    SENT_UNCONFIRMED,
    SENT_CONFIRMED, /* or refused; its deletion or rejection is under way */
    SENT_UNDELETED, /* deleting it has failed: tried again with the next tick */
};

struct sent {
    uint64_t seq;
    uint64_t tag;    /* RabbitMQ's delivery tag; 0 for a declaration */
    uint32_t method; /* class and method number */
    enum sent_state state;
    uint8_t *key; /* of a mandatory publish: its method and header payloads, to know it again */
    uint32_t method_len, header_len;
    uint16_t returned; /* reply code of basic.return, 0: none */
    char *why;         /* its text */
    struct trace trace;
};

struct in_flight {
    struct sent *all;
    uint32_t count, capacity;
};

/* Behind the others. `tag` is 0 for a declaration. The entry is valid until the next change. */
struct sent *in_flight_add(struct in_flight *, const struct job_record *, uint64_t tag);
/* NULL if it is not among them. */
struct sent *in_flight_find(struct in_flight *, uint64_t seq);
/* The first unconfirmed one, or NULL; *count is how many there are. */
struct sent *in_flight_first_unconfirmed(struct in_flight *, uint32_t *count);
/* True if one of the unconfirmed ones was sent with this method; 0 is any of them. */
bool in_flight_has_sent(const struct in_flight *, uint32_t method);
/* The first unconfirmed publish that these words of RabbitMQ point at, or NULL. */
struct sent *in_flight_accused(struct in_flight *, const char *text);
/* Notes a basic.return with the oldest unconfirmed publish that it can be about. */
void in_flight_note_return(struct in_flight *, const struct returned *, const struct frame *header);
/* Takes those out that have one of these numbers, which ascend. */
void in_flight_remove(struct in_flight *, const uint64_t *seqs, uint32_t count);
/* Takes the unconfirmed ones out. */
void in_flight_forget_unconfirmed(struct in_flight *);
/* Takes all out, and frees. */
void in_flight_clear(struct in_flight *);
