#pragma once

/* One listening socket that speaks HTTP, on the proxy's own loop. */

#include <stdbool.h>

#include <uv.h>

#include "admin/history.h"
#include "base/list.h"

struct MHD_Daemon;
struct proxy;

struct door {
    struct proxy *proxy;
    const struct history *history;
    bool commands; /* POST is allowed: who may connect may change things */
    struct MHD_Daemon *daemon;
    uv_poll_t poll;
    uv_timer_t timer;
    struct list guests; /* connections that have a deadline, the next one first */
    unsigned guest_count;
    struct list requests; /* commands that are under way */
    void (*on_closed)(struct door *);
    bool has_answer; /* of a command: the server has to run once more */
    unsigned open_handles;
};

/* Serves on `fd`, a listening socket, which it takes over. The first three fields and on_closed are
 * set by the caller. False if the HTTP server does not start; fd is closed then. */
bool door_open(struct door *, int fd);
/* Ends every connection; on_closed follows once the loop has let go. */
void door_close(struct door *);
