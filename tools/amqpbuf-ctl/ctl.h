#pragma once

/* What a person has asked for on the command line. */

#include <stdbool.h>
#include <stdint.h>

enum ctl_exit {
    CTL_FINE = 0,
    CTL_REFUSED = 1, /* amqpbuf could not do it, or there is no such message */
    CTL_USAGE = 2,
    CTL_NO_PROXY = 3, /* no amqpbuf runs on that spool, or it does not answer */
};

enum ctl_verb { CTL_LIST, CTL_RETRY, CTL_DISCARD, CTL_PAUSE, CTL_RESUME };

struct ctl {
    const char *spool; /* directory */
    enum ctl_verb verb;
    uint64_t queue;  /* 0: not given, all (of list) */
    uint64_t seq;    /* 0: all */
    bool json;       /* of list */
    long patience_s; /* for the answer */
};

/* False, and *status says how to end, if nothing is to be done. */
bool ctl_parse(struct ctl *, int argc, char *argv[], enum ctl_exit *status);
const char *ctl_verb_name(enum ctl_verb);
/* Sends the command to amqpbuf's control socket, prints what it says. */
enum ctl_exit ctl_ask(const struct ctl *);
