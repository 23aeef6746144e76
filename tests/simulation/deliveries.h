#pragma once

/* What RabbitMQ has sent to consumers and to those who asked with basic.get: who is to get it, and
 * what became of it. Breaks the run if one comes to another, twice, out of turn or changed, or if
 * what its reader has said of it is lost on a channel that was closed in order. */

#include <stdbool.h>
#include <stdint.h>

#include "ledger.h"

void deliveries_begin(void);
/* Nothing is under way any more: has all arrived that was answered for? */
void deliveries_settle(void);
void deliveries_end(void);

/* RabbitMQ sends one with this tag, on a channel that no other one has the number of, to the
 * consumer of this tag ("": for basic.get) of this login. Returns its number. */
uint32_t delivery_new(uint64_t channel, uint64_t tag, unsigned login, const char *consumer,
                      bool is_settled);
/* RabbitMQ has its ack, nack or reject. */
void delivery_settled(uint32_t);
/* Nothing that is said of it can reach RabbitMQ any more. */
void delivery_lost(uint32_t);

/* What a client's channel knows of those that it was sent. Zeroed: nothing. */
struct taken {
    uint64_t channel, tag; /* of the last one */
    uint32_t *open;        /* not settled by the client */
    uint32_t *said;        /* settled by it, and perhaps not by RabbitMQ */
    unsigned open_count, open_capacity, said_count, said_capacity;
    unsigned asked; /* of `said`: before the client asked for what covers them */
};
void taken_deinit(struct taken *);
/* The client of this login has one, of `size` bytes of body. */
void taken_add(struct taken *, unsigned login, const char *consumer, uint64_t tag,
               const uint8_t *body, uint64_t size);
/* The oldest that is not settled, or the newest; 0: there is none. */
uint64_t taken_tag(const struct taken *, bool newest);
/* The client settles it, and with `multiple` all before it. */
void taken_say(struct taken *, uint64_t tag, bool multiple);
/* It asks for a commit, a rollback, a close. */
void taken_ask(struct taken *);
/* The answer: all that it had said by then arrives, or is void. */
void taken_arrived(struct taken *);
void taken_is_void(struct taken *);

/* A body that says which one it is. */
enum { DELIVERY_BODY_MIN = LEDGER_BODY_MIN };
void delivery_write_body(uint32_t, uint8_t *body, uint32_t size);
void delivery_write_header(uint64_t body_size, uint8_t header[LEDGER_HEADER_BYTES]);
