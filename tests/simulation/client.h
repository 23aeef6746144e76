#pragma once

/* Clients of the proxy: each follows a script that its seed decides, in the manner of the programs
 * that use it. What it is told goes into the ledger. */

#include <stdbool.h>
#include <stdint.h>

#include "ledger.h"

enum client_kind {
    CLIENT_JOB,         /* one message, close */
    CLIENT_STREAM,      /* long, without confirms */
    CLIENT_CONFIRMING,  /* long, with confirms, awaited now and then */
    CLIENT_TRANSACTION, /* tx */
    CLIENT_DECLARING,   /* declare, publish, close, as frameworks do */
    CLIENT_CONSUMING,   /* has an upstream of its own */
    CLIENT_DYING,       /* any of these, gone behind some byte */
    CLIENT_DEAF,        /* publishes and does not read for a while */
    CLIENT_STRANGER,    /* a wrong password */
    CLIENT_WORKER,      /* consumes and publishes */
    CLIENT_UNRULY,      /* publishes, and then says what is no AMQP */
    CLIENT_HASTY,       /* waits for as little as it may: much of what it says crosses an answer */
    CLIENT_FLOOD,       /* as much as it can, and goes without a word */
    CLIENT_PROBE,       /* one message, with a confirm */
    CLIENT_GUESSER,     /* a wrong password of its own */
    CLIENT_KINDS,
};
const char *client_kind_name(enum client_kind);

void client_begin_all(void);
void client_end_all(void);
/* Connects, and does what it does. */
void client_start(enum client_kind, uint64_t seed);
/* The same, with this login. */
void client_start_as(enum client_kind, uint64_t seed, unsigned login);
/* And all that it publishes goes there. Returns its number, 0 if it is refused. */
unsigned client_start_to(enum client_kind, uint64_t seed, unsigned login, enum destination);
/* It has not come to its end. */
bool client_is_there(unsigned id);
/* How many have come. */
unsigned client_started(void);
/* Those that have not come to their end. */
unsigned client_count(void);
/* What the first of those waits for. */
const char *client_waits_for(void);
