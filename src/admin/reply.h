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
/* `path` without a query. GET and HEAD are answered alike; other methods get 405. */
void reply_make(struct reply *, struct proxy *, const struct history *, const char *method,
                const char *path);
