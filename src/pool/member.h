#pragma once

/* A client as logins and pools see it: who asks to come in, and then shares a pool. Embedded in the
 * client, which hears of what is decided through the events. */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "pool/identity.h"

struct attempt;
struct member;
struct logins;
struct pool;

enum secret_verdict {
    SECRET_OPEN, /* RabbitMQ has to be asked */
    SECRET_ACCEPTED,
    SECRET_REFUSED,
    SECRET_ELSEWHERE, /* it may be good, but not here: the client has to log in with it */
};

struct member_events {
    /* User and password are good: the vhost is to be named. */
    void (*on_proven)(struct member *);
    /* It is in its pool, and may publish. */
    void (*on_admitted)(struct member *);
    /* RabbitMQ refuses the login, or nobody can ask it; also later, of one that was admitted. */
    void (*on_refused)(struct member *, uint16_t code, const char *text);
    /* What it was held for may have come. It may be held again. */
    void (*on_wake)(struct member *);
    /* RabbitMQ blocks publishing, or no longer, and nothing is buffered. */
    void (*on_blocked)(struct member *, bool blocked);
    /* Its new_secret is decided. */
    void (*on_secret)(struct member *, enum secret_verdict);
    /* The pool has another password: connections that were opened with the one before are told. */
    void (*on_password)(struct member *);
};

struct member {
    struct logins *logins;
    const struct member_events *events;
    uint64_t id;      /* the client's, for the log */
    const char *peer; /* the same */

    struct pool *pool;       /* from the decision about its vhost on */
    struct attempt *attempt; /* that it waits for, before that */
    struct list node;        /* in attempt->members, pool->waiting or pool->held */
    struct list pool_node;   /* in pool->members */
    bool held;

    char *user, *password, *vhost; /* password only until the login is decided */
    struct identity identity;      /* of user and password */
    char *new_secret; /* of its connection.update-secret that waits for an answer; NULL: none */
};

void member_init(struct member *, struct logins *, const struct member_events *, uint64_t id,
                 const char *peer);
/* It must have left. */
void member_deinit(struct member *);
void member_forget_password(struct member *);
void member_forget_secret(struct member *);
