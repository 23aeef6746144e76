#pragma once

/* The way in. RabbitMQ is asked about a login in two steps, where it would refuse it itself: behind
 * start-ok about user and password, behind connection.open about the vhost. Until RabbitMQ has said
 * yes to both there is no pool and no queue, only an attempt: bounded by the clients that wait for
 * it, few dialled at a time, gone with its answer. */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

struct client;
struct pools;
struct attempt;

struct logins {
    struct list attempts; /* in the order in which they came */
    unsigned dialing;
};

void logins_init(struct logins *);
/* Clients must have left. */
void logins_deinit(struct logins *);

/* start-ok has come: the client gets tune, or is refused, now or later. */
void login_begin(struct client *);
/* connection.open has come: the client enters a pool, or is refused, now or later. */
void login_enter(struct client *);
/* The client waits no longer. */
void login_leave(struct client *);

/* False if no login is known, and the latest tries to reach RabbitMQ have failed: nobody can prove
 * one. */
bool login_is_possible(const struct pools *);
