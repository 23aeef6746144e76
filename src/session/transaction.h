#pragma once

/* What a channel has published since tx.select or its last commit. Copies of it are kept, with a
 * place in the queue each, wherever it goes: RabbitMQ may be lost before it has committed.
 *
 * It begins here (LOCAL), goes to RabbitMQ as it comes (SENT) if that is there, and back to LOCAL
 * if RabbitMQ gives it up. While nothing can be stored RabbitMQ alone has it (THERE), to its end. A
 * commit sends a LOCAL one to the spool, all or nothing; a SENT one
 * waits for commit-ok (COMMITTING), as one of the methods that are awaited: so each commit-ok ends
 * the right one. */

#include <stddef.h>
#include <stdint.h>

#include "amqp/content.h"
#include "pool/append.h"

struct pool;
struct queue;
struct transaction;

enum transaction_state {
    TRANSACTION_LOCAL,      /* here alone: it ends in the spool, whatever happens meanwhile */
    TRANSACTION_THERE,      /* RabbitMQ alone has it: no copies are kept, and its loss is told */
    TRANSACTION_SENT,       /* RabbitMQ has it too: the copies are kept for its loss alone */
    TRANSACTION_COMMITTING, /* tx.commit was sent */
};

/* LOCAL and empty. */
struct transaction *transaction_new(struct pool *, struct publisher);
/* THERE. */
struct transaction *transaction_new_there(struct pool *);
/* Gives it up, or RabbitMQ has committed it: its copies go, and its places are free. */
void transaction_free(struct transaction *);
enum transaction_state transaction_state(const struct transaction *);
/* True if RabbitMQ has begun to get it; NULL is none. */
bool transaction_is_sent(const struct transaction *);
/* True if there are copies of it. */
bool transaction_is_kept(const struct transaction *);
void transaction_move(struct transaction *, enum transaction_state);
/* Takes the message over; it takes a place. Of one that is not kept it is dropped. */
void transaction_keep(struct transaction *, struct message *);
/* It is kept: appends it to the spool, all or nothing, and frees it: tx.commit-ok follows the
 * commit. */
void transaction_commit(struct transaction *, struct pool *);
/* Places in the queue that it takes. */
uint64_t transaction_places(const struct transaction *);
/* Its messages' part in the slabs that hold them. */
size_t transaction_held_bytes(const struct transaction *);
