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
              [TRANSACTION_THERE] = "there",
              [TRANSACTION_SENT] = "sent",
              [TRANSACTION_COMMITTING] = "committing"},
    .next = {[TRANSACTION_LOCAL] = TO(TRANSACTION_SENT),
             [TRANSACTION_THERE] = TO(TRANSACTION_COMMITTING),
             [TRANSACTION_SENT] = TO(TRANSACTION_LOCAL) | TO(TRANSACTION_COMMITTING)},
};

static struct transaction *make(struct pool *pool, enum transaction_state state)
{
    struct transaction *tx = calloc(1, sizeof *tx);
    ENSURE(tx);
    tx->queue = pool->queue;
    tx->state = state; /* a new one */
    return tx;
}

struct transaction *transaction_new(struct pool *pool, struct publisher publisher)
{
    struct transaction *tx = make(pool, TRANSACTION_LOCAL);
    tx->copies = append_begin(pool, publisher);
    return tx;
}

struct transaction *transaction_new_there(struct pool *pool)
{
    return make(pool, TRANSACTION_THERE);
}

/* Where the queue counts its places. */
static uint64_t *count_of(struct transaction *tx)
{
    return tx->state == TRANSACTION_COMMITTING ? &tx->queue->committing : &tx->queue->reserved;
}

void transaction_free(struct transaction *tx)
{
    *count_of(tx) -= tx->places;
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
    return tx && (tx->state == TRANSACTION_SENT || tx->state == TRANSACTION_THERE);
}

bool transaction_is_kept(const struct transaction *tx)
{
    return tx->copies != NULL;
}

void transaction_move(struct transaction *tx, enum transaction_state to)
{
    *count_of(tx) -= tx->places;
    STATE_MOVE(&states, tx->state, to);
    *count_of(tx) += tx->places;
}

void transaction_keep(struct transaction *tx, struct message *message)
{
    if (!tx->copies) {
        message_clear(message);
        return;
    }
    job_add_message(tx->copies, RECORD_PUBLISH, message);
    tx->places++;
    tx->queue->reserved++;
}

void transaction_commit(struct transaction *tx, struct pool *pool)
{
    ENSURE(tx->copies);
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
    return tx->copies ? job_held_bytes(tx->copies) : 0;
}
