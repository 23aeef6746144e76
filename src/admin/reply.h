#pragma once

/* What each path says. */

#include <stdbool.h>
#include <stddef.h>

struct proxy;
struct history;

struct reply {
    unsigned status; /* HTTP */
    const char *type;
    const char *text;
    size_t len; /* bytes */
    bool owned; /* `text` is to be freed */
};

#define REPLY_TEXT "text/plain; charset=utf-8"

/* A text that lives as long as the program. */
void reply_say(struct reply *, unsigned status, const char *text);
void reply_free(const struct reply *);
/* What is asked for. */
struct question {
    const char *method, *path; /* the path without a query */
    const char *host;          /* whom it is sent to (host.h); NULL: not said */
};

/* GET and HEAD are answered alike; other methods get 405. */
void reply_make(struct reply *, struct proxy *, const struct history *, const struct question *);
