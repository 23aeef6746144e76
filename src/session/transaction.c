#include "session/transaction.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/states.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "spooler/job.h"

struct transaction {
    enum transaction_state state;
    struct queue *queue;
    struct job *copies;
    uint64_t places;
};

static const struct states states = {
    .object = "transaction",
    .names = {[TRANSACTION_LOCAL] = "local",
              [TRANSACTION_SENT] = "sent",
              [TRANSACTION_COMMITTING] = "committing"},
    .next = {[TRANSACTION_LOCAL] = TO(TRANSACTION_SENT),
             [TRANSACTION_SENT] = TO(TRANSACTION_LOCAL) | TO(TRANSACTION_COMMITTING)},
};

struct transaction *transaction_new(struct pool *pool, struct publisher publisher)
{
    struct transaction *tx = calloc(1, sizeof *tx);
    ENSURE(tx);
    tx->queue = pool->queue;
    tx->copies = append_begin(pool, publisher);
    return tx;
}

void transaction_free(struct transaction *tx)
{
    tx->queue->reserved -= tx->places;
    if (tx->copies)
        job_free(tx->copies);
    free(tx);
}

enum transaction_state transaction_state(const struct transaction *tx)
{
    return tx->state;
}

bool transaction_is_sent(const struct transaction *tx)
{
    return tx && tx->state == TRANSACTION_SENT;
}

void transaction_move(struct transaction *tx, enum transaction_state to)
{
    STATE_MOVE(&states, tx->state, to);
}

void transaction_keep(struct transaction *tx, struct message *message)
{
    job_add_message(tx->copies, RECORD_PUBLISH, message);
    tx->places++;
    tx->queue->reserved++;
}

void transaction_commit(struct transaction *tx, struct pool *pool)
{
    append_transaction(pool, tx->copies);
    tx->copies = NULL;
    transaction_free(tx);
}

uint64_t transaction_places(const struct transaction *tx)
{
    return tx->places;
}

size_t transaction_held_bytes(const struct transaction *tx)
{
    return job_held_bytes(tx->copies);
}
