#pragma once

/* The two states of a pool (docs/states.md): whether publishes pass through, and what RabbitMQ says
 * of its login. */

#include <stdbool.h>

#include "pool/pool_struct.h"

enum { LOGIN_GRACE_MS = 5000 };

/* Works the state out again; tells held clients and the queue when it has changed. A pool that
 * needs a connection and has none tries again later. */
void pool_state_update(struct pool *);
/* What is published goes to the spool from now on, also of a pool that has never been connected
 * since the start. */
void pool_state_buffers(struct pool *);
void pool_state_login(struct pool *, enum pool_login);
/* RabbitMQ has refused the login. One that it had accepted is only suspected for LOGIN_GRACE_MS:
 * RabbitMQ may just have started, and know its users a moment later. */
void pool_state_refuse(struct pool *);
/* RabbitMQ is away: a login that is only suspected is as good as before. */
void pool_state_away(struct pool *);
/* True if RabbitMQ has accepted the login, and has not refused it since, or only a moment ago. */
bool pool_state_is_accepted(const struct pool *);
/* True if RabbitMQ's last word was a refusal. */
bool pool_state_is_refused(const struct pool *);
/* A try to reach RabbitMQ with this login was answered, if only with a refusal, or was not. */
void pool_state_note_away(struct pool *, bool is_away);
/* True if the last one was not, within this time. */
bool pool_state_is_away(const struct pool *, uint64_t within_ms);
/* True if RabbitMQ was there a moment ago, and the first try to have it back is not decided. */
bool pool_state_may_return(struct pool *);
/* True if a close is answered only when all that it covers is safe (pool.close_waits). */
bool pool_state_close_waits(const struct pool *);
