#pragma once

/* Whose fault a failure is, and what follows from that. Decisions only: no state, no I/O. Codes and
 * texts as of rabbit_channel, rabbit_reader and rabbit_deprecated_features (RabbitMQ 3.8 to 4). */

#include <stdbool.h>
#include <stdint.h>

enum blame {
    BLAME_MESSAGE,    /* refused for its own sake: it would be refused again */
    BLAME_MISSING,    /* what it names is not there */
    BLAME_UNROUTABLE, /* returned: no queue is bound for it */
    BLAME_TRANSIENT,  /* RabbitMQ failed at it for reasons of its own */
    BLAME_BROKER,     /* not about this message at all */
};

/* `code` is RabbitMQ's reply code, 0 for a basic.nack; `text` its reply text. */
enum blame blame_of(uint16_t code, const char *text);

/* The vhost is being deleted: what is refused from now on until RabbitMQ closes the connection
 * (with 403 as well, its permissions go first) says nothing of any message. */
bool blame_is_end_of_vhost(uint16_t code, const char *text, const char *vhost);

enum remedy {
    REMEDY_REJECT, /* to the rejected list */
    REMEDY_AGAIN,  /* once more, in its place */
    REMEDY_DROP,   /* as RabbitMQ would have done */
};

struct circumstances {
    uint32_t tries; /* that have failed, with this one */
    uint32_t nack_limit;
    bool missing_waits;      /* drain.missing = wait */
    bool just_back;          /* RabbitMQ came back less than drain.unroutable_wait ago */
    bool mandatory;          /* its publisher wanted to hear that nothing takes it */
    bool unroutable_rejects; /* drain.unroutable = reject */
};

/* What to do with a message that failed while nothing else can have been the reason. */
enum remedy remedy_of(enum blame, const struct circumstances *);

/* How long to wait before the next try, after so many. Ten tries take some ten seconds. */
uint32_t blame_pause_ms(uint32_t tries);
