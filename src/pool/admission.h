#pragma once

/* How clients whose login is decided come into their pool, and leave it: admitted once the spool
 * remembers the login, or, while RabbitMQ is away, as P6 says. */

#include <stdint.h>

struct member;
struct pool;
struct upstream_end;

/* The client's login is good: admits it, once the spool remembers the login. */
void admission_enter(struct pool *, struct member *);
/* The same while RabbitMQ cannot be reached, also for a login that nobody has proven. */
void admission_enter_offline(struct pool *, struct member *);
/* It shares the pool no more. */
void admission_leave(struct member *);

/* Remembers in the spool that RabbitMQ has accepted the login, before anybody relies on it. */
void admission_store(struct pool *);
/* Admits who waits, unless the login is being stored. */
void admission_admit(struct pool *);
/* Refuses who waits. */
void admission_refuse(struct pool *, uint16_t code, const char *text);
/* RabbitMQ cannot be asked: P6 decides about who waits, unless the login is being stored. */
void admission_decide_unreachable(struct pool *);
/* Who is connected would go on filling a queue that nobody can empty: a user that was deleted, a
 * token that has run out. They hear RabbitMQ's words, and what is stored waits for a better login.
 */
void admission_expel(struct pool *, const struct upstream_end *);
