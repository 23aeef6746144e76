#pragma once

/* The account of a run: each message that a client has published, what its publisher was told of
 * it, and what RabbitMQ took. It knows the promises (P1 to P4, P6) and breaks the run over the
 * first one that is not kept. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where messages go, and what RabbitMQ does with them. */
enum destination {
    DEST_QUEUE_0, /* queues that are there */
    DEST_QUEUE_1,
    DEST_QUEUE_2,
    DEST_QUEUE_3,
    DEST_QUEUES,                /* how many those are */
    DEST_NOWHERE = DEST_QUEUES, /* no queue is bound */
    DEST_MISSING,               /* no such exchange */
    DEST_DENIED,                /* no permission */
    DEST_COUNT,
};
const char *destination_exchange(enum destination);
const char *destination_key(enum destination);
enum destination destination_find(const char *exchange, const char *key);

/* Users with their vhosts. */
struct login {
    const char *user, *password, *vhost;
};
enum { LOGINS = 3 };
extern const struct login logins[LOGINS];

/* Messages of one client channel: those behind each other to one destination keep their order. */
struct lane;
struct lane *lane_new(unsigned login);
/* Its publisher asked for confirms. */
void lane_confirms(struct lane *);
/* Its publisher has gone, or closes it. */
void lane_leave(struct lane *);

/* The lane's next message; returns its number, which is written in its body. */
uint32_t ledger_publish(struct lane *, enum destination, bool persistent, bool mandatory);
/* Its publisher was told that it is safe, or that it is not. */
void ledger_told_safe(uint32_t message);
void ledger_told_refused(uint32_t message);
/* With a nack. */
void ledger_told_nacked(uint32_t message);
/* Its publisher was given it back. */
void ledger_given_back(uint32_t message);
/* True for messages whose loss their publisher cannot blame: told nothing. */
bool ledger_is_told(uint32_t message);
/* True if its publisher went so long ago. */
bool ledger_is_left_for(uint32_t message, uint64_t us);

/* The content header that its publisher gives it: its size, and whether it is persistent. */
enum { LEDGER_HEADER_BYTES = 15 };
void ledger_write_header(uint32_t message, uint64_t body_size, uint8_t header[LEDGER_HEADER_BYTES]);
/* It has arrived with this one. */
void ledger_compare(uint32_t message, const uint8_t *header, size_t len);
/* RabbitMQ has read it, or what it committed, from this login, on a channel that no other one has
 * the number of. `is_late`: from a connection that the proxy has left long since, so that nothing
 * follows from when it comes. */
void ledger_arrives(uint32_t message, unsigned login, uint64_t channel, bool is_late);
/* It has confirmed it. So it has it for good; unless it was mandatory, and came back. */
void ledger_holds(uint32_t message);
/* RabbitMQ nacked it: it comes again, behind those that were under way. */
void ledger_nacked(uint32_t message);
/* It may come once more: the confirm has not reached the proxy, or it said no. */
void ledger_excuses(uint32_t message);
/* So may those that are not confirmed, or were within this time: the proxy was killed, and what it
 * had not written with it. */
void ledger_excuses_since(uint64_t since_us);
/* The power was cut, and what was told to be safe since then was not all synced. */
void ledger_may_lose_since(uint64_t since_us);
/* From now on messages to it may be rejected with 403. */
void ledger_may_refuse(enum destination);
/* pool.confirm_transient = no: what is transient, and of a client without confirms, may be lost. */
void ledger_forgives_transient(void);
/* Nothing is buffered for a while: what RabbitMQ refuses is told to its publisher alone. */
void ledger_forgives_unheard(void);
bool ledger_does_forgive_unheard(void);
/* The spool has it on the rejected list, or it waits there still. */
void ledger_found_rejected(uint32_t message, unsigned code);

void ledger_begin(void);
/* Nothing is under way any more: is everything where it belongs? */
void ledger_settle(void);
void ledger_end(void);

struct ledger_counts {
    uint32_t published, safe, refused, arrivals, repeats, rejected;
};
struct ledger_counts ledger_counts(void);

/* A body that says which one it is; room for `size` bytes, at least LEDGER_BODY_MIN. */
enum { LEDGER_BODY_MIN = 10 };
void ledger_write_body(uint32_t message, uint8_t *body, uint32_t size);
/* The number at the beginning of a body. */
uint32_t ledger_number(const uint8_t *body);
/* The same; the run breaks if it is not whole. */
uint32_t ledger_read_body(const uint8_t *body, uint64_t size);
