#pragma once

/* The password, or token, of a pool, and new ones that clients bring with connection.update-secret.
 * RabbitMQ is asked about one at a time, by a connection that is dialled with it. */

#include <stdbool.h>

#include "pool/pool_struct.h"

/* True if RabbitMQ need not be asked about this password: it has accepted it, and the pool is
 * connected. */
bool password_vouches(struct pool *, const struct identity *, const char *password);
/* RabbitMQ has accepted it: the pool dials with it from now on, unless the token that it has gives
 * the same rights for longer; then this one is good as well. The one before stays good for a while,
 * if it was: other tokens of this login are in use too. True if the pool has another one now. */
bool password_take(struct pool *, const struct identity *, const char *password);
/* The pool's connections were opened with a secret that may run out (a token), and so were those
 * that clients have to themselves: they are told. */
void password_tell(struct pool *);

/* RabbitMQ has refused the pool's token. True if it has another one now: of those that RabbitMQ has
 * accepted, with the same rights, the one that holds longest and has not run out. */
bool password_fall_back(struct pool *);

/* A member has a new_secret. Its on_secret is called, now or later. A secret that RabbitMQ accepts
 * becomes the pool's password; if it does not, the old one stays. */
void password_ask(struct pool *);
/* True if this upstream was dialled to ask. */
bool password_is_candidate(const struct pool *, const struct upstream *);
/* RabbitMQ has accepted the one that this upstream was dialled with. True if that gives other
 * rights and somebody else has joined since: the pool keeps its own, and who brought it hears that.
 */
bool password_is_elsewhere(struct pool *, const struct upstream *);
/* RabbitMQ has accepted it. */
void password_adopt(struct pool *, const char *secret);
/* RabbitMQ has refused the one that this upstream was dialled with. The pool keeps its old one;
 * without a connection that is tried again at once. */
void password_refused(struct pool *, const struct upstream *, const struct upstream_end *);
/* RabbitMQ could not be asked: the client hears yes, and the next connection decides. */
void password_undecided(struct pool *, const struct upstream *);
