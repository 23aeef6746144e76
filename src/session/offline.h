#pragma once

/* What the proxy answers in RabbitMQ's place while it is away (DESIGN, "Offline"). */

#include "amqp/content.h"
#include "amqp/method.h"

struct channel;
struct pool;
struct queue;
struct refusal;

/* True for what is answered here at all; everything else needs RabbitMQ. */
bool offline_can_answer(amqp_method_number_t, const void *decoded);
/* True if that would be a guess: it declares, or asks for, a queue or an exchange of which nothing
 * is known from RabbitMQ; a queue that may be gone since; or how many messages wait in one. */
bool offline_is_guess(const struct queue *, amqp_method_number_t, const void *decoded);
/* True if it names a queue or an exchange that RabbitMQ may have only once the drain gets there:
 * sent to RabbitMQ it would overtake the declaration. */
bool offline_names_promised(const struct queue *, amqp_method_number_t, const void *decoded);
/* True if the method is a declaration that would take a place in the queue. */
bool offline_takes_place(const struct channel *, amqp_method_number_t, void *decoded);
/* Answers a method of a channel; `payload` has been checked. Declarations go to the spool. False:
 * it is refused, and *why says it. */
bool offline_method(struct channel *, const uint8_t *payload, size_t len, amqp_method_number_t,
                    struct refusal *why);
/* Answers a tx.commit or tx.rollback that a connection was lost with: what it ends was given up, or
 * goes to the spool, apart from it, and the channel's transaction, if there is one, has begun
 * behind it. False: it is no such method, or the channel has no transactions. */
bool offline_lost_end(struct channel *, amqp_method_number_t);
/* A method of a client that is gone, which RabbitMQ has not answered: a declaration goes to the
 * spool, since what was published behind it does. */
void offline_keep(struct pool *, const uint8_t *payload, size_t len);
