#pragma once

/* The records that a drain has sent and that are still in the queue, in sequence order: those that
 * RabbitMQ has not answered for, and those that it has while they are being deleted. Nothing that a
 * confirm or a deletion asks for looks at all of them: there may be tens of thousands. */

#include <stdbool.h>
#include <stdint.h>

#include "drain/returned.h"
#include "drain/suspect.h"
#include "spooler/job.h"
#include "upstream/window.h"

enum sent_state {
    SENT_UNCONFIRMED,
    SENT_PARKED,    /* unconfirmed for so long that nobody waits for it: its destination is aside */
    SENT_CONFIRMED, /* or refused; its deletion or rejection is under way */
    SENT_AGAIN,     /* RabbitMQ failed at it: to be read and sent again, about to be taken out */
    SENT_UNDELETED, /* taking it out has failed: tried again with the next tick */
    SENT_GONE,      /* out of the queue; nobody sees it any more */
};

struct sent {
    uint64_t seq;
    uint64_t tag;         /* RabbitMQ's delivery tag; 0 for a declaration */
    uint32_t method;      /* class and method number */
    uint64_t destination; /* of a publish */
    size_t bytes;         /* of its frames */
    uint64_t passed_over; /* records before it that were left where they are: drain.skipped */
    uint64_t promise;     /* of a declaration: queue_promise_of */
    enum sent_state state;
    uint64_t sent_ms;
    uint8_t *names; /* of a publish: its method payload */
    uint32_t names_len;
    uint64_t header_hash;
    bool mandatory;    /* as its publisher wanted it */
    uint16_t returned; /* reply code of basic.return, 0: none */
    bool is_rejected;  /* it is none to be deleted */
    char *why;         /* the return's text, or why it is rejected */
    struct trace trace;
};

/* Where the publish with this delivery tag is. */
struct sent_tag {
    uint64_t tag, seq;
};

struct in_flight {
    struct sent *all; /* by seq; those that are GONE before `first` are taken out */
    uint32_t first, end, capacity;
    struct sent_tag *tags; /* of publishes, ascending */
    uint32_t tags_first, tags_end, tags_capacity;

    uint32_t count;  /* that are not GONE */
    uint32_t parked; /* of these */
    uint32_t unconfirmed;
    uint64_t bytes;     /* of those in the window */
    struct window open; /* publishes that RabbitMQ has not answered for, by destination */
};

/* In its place. `tag` is 0 for a declaration. The entry is valid until the next change. */
struct sent *in_flight_add(struct in_flight *, const struct job_record *, uint64_t tag,
                           uint64_t now_ms);
/* The one way to change an entry's state. */
void in_flight_set(struct in_flight *, struct sent *, enum sent_state);
/* How many stand for a place in the window. */
static inline uint32_t in_flight_in_window(const struct in_flight *f)
{
    return f->count - f->parked;
}
/* Each in turn, in sequence order; begin with *at = 0. NULL: there are no more. */
struct sent *in_flight_next(const struct in_flight *, uint32_t *at);
/* True if RabbitMQ has not answered for it. */
static inline bool sent_is_open(const struct sent *entry)
{
    return entry->state == SENT_UNCONFIRMED || entry->state == SENT_PARKED;
}
/* Notes why it goes to the rejected list; 0: nacked. */
void sent_reject(struct sent *, uint16_t code, const char *text);
/* The names of a publish, cut at 255 bytes. */
void sent_name(const struct sent *, char exchange[256], char routing_key[256]);
/* How many publishes to this destination RabbitMQ has not answered for. */
uint32_t in_flight_open_of(const struct in_flight *, uint64_t destination);
/* NULL if it is not among them. */
struct sent *in_flight_find(const struct in_flight *, uint64_t seq);
/* Delivery tags begin again; nothing is unanswered. */
void in_flight_new_channel(struct in_flight *);
/* The publish with this tag, if RabbitMQ has not answered for it, else NULL. */
struct sent *in_flight_tagged(struct in_flight *, uint64_t tag);
/* The one with the lowest tag that RabbitMQ has not answered for, or NULL. */
struct sent *in_flight_oldest(struct in_flight *);
/* The same of those behind this tag. */
struct sent *in_flight_behind(const struct in_flight *, uint64_t tag);
/* The first that RabbitMQ has not answered for, or NULL; *count is how many there are. */
struct sent *in_flight_first_open(const struct in_flight *, uint32_t *count);
/* True if one of the unconfirmed ones was sent with this method; 0 is any of them. */
bool in_flight_has_sent(const struct in_flight *, uint32_t method);
/* The first publish without an answer that these words of RabbitMQ point at, or NULL. */
struct sent *in_flight_accused(struct in_flight *, const char *text);
/* Notes a basic.return with the oldest unconfirmed publish that it can be about. */
void in_flight_note_return(struct in_flight *, const struct returned *, const struct frame *header);
/* Takes those out that have one of these numbers. */
void in_flight_remove(struct in_flight *, const uint64_t *seqs, uint32_t count);
/* Takes those out that RabbitMQ has not answered for: all of them, or those of one destination.
 * Returns how many of them stood for a place in the window. */
uint32_t in_flight_forget_open(struct in_flight *, uint64_t destination);
/* Takes those out that are to be sent again; returns the same. */
uint32_t in_flight_forget_again(struct in_flight *);
/* Takes all out, and frees. */
void in_flight_clear(struct in_flight *);
