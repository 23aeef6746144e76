#pragma once

/* Puts accepted messages into the spool and has their publisher told once they are committed. */

#include <stdint.h>

#include "amqp/content.h"
#include "spooler/spooler.h"

struct pool;

/* Who published it, as handles: either may be gone by now, or become so. Closes of both wait for
 * the commit. */
struct publisher {
    uint64_t channel, client;
};

/* Takes the message over; client_tag is the tag to be acked after the commit, 0 for none. */
void append_publish(struct pool *, struct publisher, struct message *, uint64_t client_tag);
/* The same for one that RabbitMQ has as well; `copied` is called with this handle and the copy's
 * number. */
void append_copy(struct pool *, struct publisher, struct message *, uint64_t client_tag,
                 void (*copied)(uint64_t doubt, bool stored, uint64_t seq), uint64_t doubt);
/* Keeps a message that RabbitMQ has refused among the rejected of its queue (P4); takes it over. */
void append_rejected(struct pool *, struct publisher, struct message *, uint16_t code,
                     const char *text);
/* A declaration, kept in its place: a method frame that lies in `slab`. `hash` is its
 * declared_hash, by which an identical one is known while it waits; 0: none is identical. */
void append_declaration(struct pool *, struct publisher, struct slab *slab,
                        const struct frame *frame, uint64_t hash);
/* A job that collects the messages of a transaction, with job_add_message. */
struct job *append_begin(struct pool *, struct publisher);
/* Appends them all or nothing: tx.commit-ok follows the commit. */
void append_transaction(struct pool *, struct job *);
