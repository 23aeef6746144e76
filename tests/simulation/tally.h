#pragma once

/* How often what is rare has happened, over all runs: the summary tells, so that an event that
 * has stopped to happen is seen. */

#include <stdint.h>

enum tally {
    TALLY_DELIVERED,        /* a consumer was sent a message */
    TALLY_TAKEN,            /* it has read it */
    TALLY_SETTLED,          /* RabbitMQ has its ack, nack or reject */
    TALLY_GOT,              /* with basic.get */
    TALLY_CANCELLED,        /* a consumer, by either side */
    TALLY_SECOND_NODE,      /* a connection to another node than the first */
    TALLY_NODE_LOST,        /* for good */
    TALLY_LOGIN_REFUSED,    /* over a vhost that is gone, or a limit */
    TALLY_CHANNEL_REFUSED,  /* over a limit: with its connection */
    TALLY_OFFENCE,          /* a client did not keep to the protocol */
    TALLY_OFFENDER_REFUSED, /* and was told so */
    TALLY_ODD_WORDS,        /* an exception's text was bytes of any kind */
    TALLY_SLOW_OPEN,        /* a channel took its time */
    TALLY_SMALL_FRAMES,     /* a connection was offered less than AMQP's least */
    TALLY_BROKEN_OVER,      /* a message ended its connection */
    TALLIES,
};

/* Counts into `counts` from now on: TALLIES numbers. */
void tally_into(uint64_t *counts);
void tally_add(enum tally);
const char *tally_name(enum tally);
