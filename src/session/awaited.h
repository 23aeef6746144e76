#pragma once

/* The methods that were sent on one channel of RabbitMQ and are not answered, oldest first.
 * RabbitMQ answers in order, but basic.consume and basic.cancel later than what is sent close
 * behind them: their answers come from the queue's process. RabbitMQ is asked for every reply there
 * is, so that nothing is done without being known to be: a no-wait of the client is taken out, and
 * the reply is not passed on.
 */

#include <stdbool.h>
#include <stdint.h>

#include "amqp/frame.h"
#include "amqp/method.h"
#include "base/slab.h"

struct transaction;

enum { AWAITED_MAX = 256 }; /* then the client waits for a reply */

struct awaited {
    uint64_t stamp; /* order among all publishes and methods of the proxy */
    amqp_method_number_t method;
    struct span payload; /* empty: the proxy sent it by itself */
    bool nowait;
    bool is_half; /* tx.commit of acks, behind what was published with them and is stored */
    struct transaction *tx; /* of tx.commit: what it commits; NULL: nothing */
};

/* All zeros is empty. */
struct calls {
    struct awaited *ring;
    uint32_t capacity, first, count; /* capacity is 0 or a power of two */
    uint32_t bytes;                  /* of all payloads */
};

/* Gives up all of them. */
void calls_deinit(struct calls *);
/* Valid until the next change. */
static inline struct awaited *calls_at(const struct calls *calls, uint32_t index)
{
    return &calls->ring[(calls->first + index) & (calls->capacity - 1)];
}
/* False: as many are awaited as may be. */
static inline bool calls_have_room(const struct calls *calls)
{
    return calls->count < AWAITED_MAX;
}
/* One more; its other fields are zero. */
struct awaited *calls_add(struct calls *, amqp_method_number_t, uint64_t stamp);
/* The newest one can be sent again as this, which is taken over. */
void calls_keep(struct calls *, struct span payload);
/* The call that this method of RabbitMQ answers; NULL: none. */
struct awaited *calls_find(const struct calls *, amqp_method_number_t, const struct frame *);
/* One is answered, or given up. True if the client awaits the reply. */
bool calls_end(struct calls *, struct awaited *);
