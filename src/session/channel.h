#pragma once

/* A client's channel. Its upstream channel (relay) is bound when a method first needs one. */

#include <stdbool.h>
#include <stdint.h>

#include "amqp/content.h"
#include "amqp/method.h"
#include "base/list.h"
#include "peer/close_handshake.h"
#include "pool/append.h"
#include "session/ledger.h"

struct client;
struct redo;
struct relay;
struct transaction;

enum channel_state {
    CHANNEL_OPEN,
    CHANNEL_SETTLING, /* it sent channel.close; the answer waits for its publishes to be safe */
    CHANNEL_CLOSING,  /* safe; RabbitMQ's channel.close-ok is awaited */
    CHANNEL_REFUSING, /* an error is to be told as soon as a message on its way to it is complete */
    CHANNEL_REFUSED,  /* channel.close sent to it; discards until nothing is owed */
};

struct pending_close;

/* What carries it upstream, as it sees that. */
struct carrier {
    /* Lets go of the channel. */
    void (*release)(struct relay *);
    /* Sends channel.close; channel_closed_upstream follows. */
    void (*close)(struct relay *);
    /* How many publishes of it RabbitMQ has not confirmed. */
    uint32_t (*unconfirmed)(const struct relay *);
    /* RabbitMQ has not answered all of its methods. */
    bool (*awaits)(const struct relay *);
    /* RabbitMQ has not answered a commit: nobody knows whether it has what was published. */
    bool (*commits)(const struct relay *);
    /* RabbitMQ may still send the client something that it has caused. */
    bool (*owes)(const struct relay *);
    /* An alarm: RabbitMQ reads nothing more of it. */
    bool (*is_unread)(const struct relay *);
    /* RabbitMQ knows no more of it than publishes, and confirms them. */
    bool (*carries_publishes_alone)(const struct relay *);
};

struct channel {
    struct client *client;
    uint16_t number;
    enum channel_state state;
    enum close_state close;              /* of the handshake with the client */
    struct pending_close *pending_close; /* while REFUSING */
    uint64_t handle;
    struct content content;
    bool confirming; /* the client asked for confirms */
    bool transactional;
    uint32_t committing; /* transactions on their way to the spool; tx.commit-ok follows each */
    bool keeps_all;      /* it has published what must be confirmed: pool.confirm_transient */
    bool consumes;       /* it has sent basic.consume or basic.get */
    uint64_t spooling;   /* appends of its own under way */
    struct relay *relay; /* NULL: not bound */
    const struct carrier *carrier; /* of the relay */
    struct redo *redo;             /* methods to be sent again; NULL: none */
    struct transaction *tx;        /* the open one; NULL: nothing was published since the last */
    bool rejecting;          /* the publish that is arriving will be nacked: the queue is full */
    amqp_bytes_t last_queue; /* its bytes are NULL: none declared */
    /* What was asked for each consumer, and for all of the channel: two settings (the method's
     * `global`). NULL: nothing was. */
    amqp_basic_qos_t *qos[2];

    struct ledger ledger;  /* confirms that the client is owed, from confirm.select on */
    struct list ack_node;  /* in clients->acking */
    bool inside_content;   /* between a method to the client and the end of its content */
    uint64_t content_left; /* bytes of body */
    uint8_t *behind;       /* frames of the proxy's own that wait for the end of the content */
    size_t behind_len;
};

/* What is kept of a channel: itself, and a handle. */
enum { CHANNEL_KEPT_BYTES = sizeof(struct channel) + 4 * sizeof(void *) };

void channel_open(struct client *, uint16_t number);
/* Its client is told to leave: publishes that go on arriving are stored, or the channel goes. */
void channel_leave(struct channel *);
/* Whose publishes they are, for the spool. */
struct publisher channel_publisher(const struct channel *);
/* Publishes of it that neither RabbitMQ nor the disk has confirmed. */
uint64_t channel_unsafe(const struct channel *);
/* One or more of its publishes have become safe. */
void channel_settled(struct channel *);
/* Confirms one publish to the client, or says that it was not taken; sent before the loop polls. */
void channel_ack(struct channel *, uint64_t tag);
void channel_nack(struct channel *, uint64_t tag);
void channel_flush_acks(struct channel *);
/* The same, but they wait while the client does not read, and are said together when it does. */
void channel_say_acks(struct channel *);
/* channel.close with an error; the channel discards until the client's close-ok. A close of the
 * client that crosses it is answered. */
void channel_refuse(struct channel *, uint16_t code, const char *text, amqp_method_number_t cause);
/* The same in RabbitMQ's words, whatever bytes they hold. */
void channel_refuse_bytes(struct channel *, uint16_t code, amqp_bytes_t text,
                          amqp_method_number_t cause);
/* RabbitMQ answered the channel.close that the client had sent. */
void channel_closed_upstream(struct channel *);
/* The upstream is lost before it has: the close waits for what went to the spool. */
void channel_lost_upstream(struct channel *);
/* Ends the open transaction: it was committed elsewhere, or is given up. */
void channel_drop_transaction(struct channel *);
/* The client is gone or going: lets go of everything. */
void channel_free(struct channel *);
/* Begins a close as if the client had asked for it (its connection.close). */
void channel_begin_close(struct channel *);
void channel_send(struct channel *, amqp_method_number_t, const void *fields);
/* Its client has to hear the end of a message that RabbitMQ is sending: there is more to say. */
bool channel_awaits_content(const struct channel *);
/* The content that RabbitMQ was sending to the client is complete. */
void channel_content_done(struct channel *);
/* An answer that the proxy gives by itself would overtake what RabbitMQ still owes the client: a
 * reply, a returned message. */
bool channel_is_owed(const struct channel *);
/* RabbitMQ may still find something wrong with what was published: it closes the channel over that
 * before it looks at what is behind. Nobody waits for longer than for a confirm, nor in an alarm.
 */
bool channel_awaits_verdict(const struct channel *);
/* For the channel of RabbitMQ that it may be bound to later. */
void channel_remember_qos(struct channel *, const amqp_basic_qos_t *);
void channel_set_last_queue(struct channel *, const void *name, size_t len);
