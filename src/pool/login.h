#pragma once

/* The way in. RabbitMQ is asked about a login in two steps, where it would refuse it itself: behind
 * start-ok about user and password, behind connection.open about the vhost. Until RabbitMQ has said
 * yes to both there is no pool and no queue, only an attempt: bounded by the members that wait for
 * it, few dialled at a time, gone with its answer. */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

struct member;
struct pools;
struct attempt;

struct logins {
    struct pools *pools;
    struct list attempts; /* in the order in which they came */
    unsigned dialing;
};

void logins_init(struct logins *, struct pools *);
/* Members must have left. */
void logins_deinit(struct logins *);

/* start-ok has come: on_proven or on_refused follows, now or later. */
void login_begin(struct member *);
/* connection.open has come: on_admitted or on_refused follows, now or later. */
void login_enter(struct member *);
/* It waits no longer. */
void login_leave(struct member *);

/* False if no login is known, and the latest tries to reach RabbitMQ have failed: nobody can prove
 * one. */
bool login_is_possible(const struct logins *);
