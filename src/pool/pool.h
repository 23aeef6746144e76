#pragma once

/* What one login shares in a vhost: its upstreams and its state. A login is an identity and what it
 * may do (identity.h), however its password changes. docs/states.md draws it. */

#include "pool/pool_struct.h"

/* The pool that knows this password; the best one if there are several, which without a vhost
 * (NULL) are those of all vhosts. */
struct pool *pool_find(struct pools *, const struct identity *, const char *password,
                       const char *vhost);
/* A pool with its queue; `login` as far as it is known. */
struct pool *pool_new(struct pools *, const struct identity *, const char *password,
                      const char *vhost, enum pool_login login);
void pools_init(struct pools *, struct upstreams *, const struct pools_events *);
/* Closes all pools and frees all queues. */
void pools_close(struct pools *);

/* RabbitMQ has accepted it: the login's pool, made if there is none, with this as its password or
 * (an older token) beside it. */
struct pool *pool_prove(struct pools *, const struct identity *, const char *password,
                        const char *vhost);
/* RabbitMQ has refused it; the vhost may be NULL: all of them. */
void pool_disprove(struct pools *, const struct identity *, const char *password, const char *vhost,
                   const struct upstream_end *);
/* Takes over an upstream that has just opened, or closes it if the pool has one. */
void pool_adopt(struct pool *, struct upstream *);
/* After a reload: with buffering on, the spool knows the login of whoever may publish. */
void pool_reconfigured(struct pool *);
/* Once a cleanup interval: closes what was idle for pool.idle_timeout. */
void pool_cleanup(struct pool *, uint64_t now_ms);
/* For some minutes this method is sent on upstreams of a client's own alone. */
void pool_beware(struct pool *, amqp_method_number_t);
bool pool_is_wary(const struct pool *, amqp_method_number_t);
/* RabbitMQ has closed a connection over a channel too many. */
void pool_learn_limit(struct pool *, const char *text);
/* RabbitMQ's words if one more channel is known to be too many, else NULL. */
const char *pool_channel_limit(const struct pool *);
