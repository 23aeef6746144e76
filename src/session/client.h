#pragma once

/* A connection from a publisher or consumer. docs/states.md draws its states. */

#include <stdbool.h>
#include <stdint.h>

#include "amqp/method.h"
#include "base/list.h"
#include "net/stream.h"
#include "peer/close_handshake.h"
#include "pool/member.h"

struct logins;
struct pools;
struct runtime;
struct pool;
struct channel;
struct client;
struct upstream;
struct upstream_end;

enum client_state {
    CLIENT_HEADER,  /* waits for the protocol header */
    CLIENT_START,   /* connection.start sent */
    CLIENT_PROVING, /* start-ok came; RabbitMQ is being asked about user and password */
    CLIENT_TUNE,    /* connection.tune sent */
    CLIENT_OPENING, /* tune-ok came, waits for connection.open */
    CLIENT_LOGIN,   /* connection.open came; RabbitMQ is being asked about the vhost */
    CLIENT_OPEN,
    CLIENT_SETTLING, /* it sent connection.close; the answer waits for its publishes to be safe */
    CLIENT_LEAVING,  /* connection.close sent to it, and what it still publishes is stored until its
                      * close-ok, its end or the deadline: many never read while they publish */
    CLIENT_REFUSED,  /* connection.close sent to it; waits for close-ok, discards all else */
    CLIENT_GARBLED,  /* the same, but where its frames begin is not known any more */
    CLIENT_FINISHED, /* close-ok sent or received; reads until it closes the socket */
    CLIENT_CLOSED,
};

enum client_place {
    CLIENT_SHARES, /* upstreams with others, until it does what belongs to a connection */
    CLIENT_APART, /* RabbitMQ ends, or may end, a connection over what it sends: on its own alone */
};

/* What is done about a client, from wherever the reason is found. */
struct client_handler {
    void (*on_close)(struct client *, const char *reason);
    void (*on_refuse)(struct client *, uint16_t code, const char *text, amqp_method_number_t cause);
    void (*on_leave)(struct client *, uint16_t code, const char *text, amqp_method_number_t cause);
    void (*on_settled)(struct client *);
};

struct clients {
    struct runtime *rt;
    struct pools *pools;
    struct logins *logins;
    const struct client_handler *handler;
    struct list all;
    struct list acking; /* channels with confirms to send */
};

struct client {
    struct runtime *rt;
    struct clients *clients;
    struct stream stream;
    struct list node; /* in clients->all */
    enum client_state state;
    enum close_state close; /* of the connection's handshake */
    uint64_t id;
    uint64_t handle;
    char peer[64]; /* address and port, for the log */

    struct member member;   /* what logins and pools know of it */
    uint64_t patience_ms;   /* when what is held is tried again by a tick; 0: by none */
    uint64_t held_since_ms; /* when it last went on; 0: it is not held */
    bool processing;

    uint8_t *properties; /* client-properties as on the wire, for an upstream of its own */
    size_t properties_len;
    bool can_be_blocked; /* has the capability connection.blocked */
    bool can_be_refused; /* has the capability authentication_failure_close */
    bool told_blocked;
    uint32_t frame_max;
    uint16_t channel_max;
    uint64_t heartbeat_ms;
    uint64_t deadline_ms; /* 0: none */

    struct channel **channels; /* by number */
    uint32_t channels_capacity, channel_count;
    struct channel *ready; /* holds a complete publish that had to wait */

    enum client_place place;
    struct upstream *own; /* upstream of its own, NULL if it needs none */
    /* The beginning of the alarm in which RabbitMQ could not be asked on one; 0: there was none. */
    uint64_t lacks_own_since_ms;
    /* Publishes of it that neither RabbitMQ nor the disk has confirmed, also of channels that are
     * gone: sent upstream, and on their way to the spool. */
    uint64_t retained, appending;
    bool owns_queues; /* exclusive ones: they are gone with its upstream */
};

/* The one way to change its state. */
void client_move(struct client *, enum client_state);
void clients_init(struct clients *, struct logins *, const struct client_handler *);

/* Ends of the connection (ending.h): whatever finds the reason says so here. */
void client_close(struct client *, const char *reason);
void client_refuse(struct client *, uint16_t code, const char *text, amqp_method_number_t cause);
void client_leave(struct client *, uint16_t code, const char *text, amqp_method_number_t cause);
/* A channel is gone, or its publishes are safe: a close that waits may be answered. */
void client_settled(struct client *);
/* The same for a client by its handle, if it is still there. */
void client_settled_by(uint64_t handle);

/* Stops reading until its pool wakes it; may be called twice. */
void client_hold(struct client *);
/* For what is waited for no longer than so long: true for wait_ms from the first time that it is
 * tried, hold the client; then false. A tick tries it again by then. */
bool client_waits(struct client *, uint64_t wait_ms);
/* The upstream that it has to itself, if RabbitMQ has let it in there, else NULL. */
struct upstream *client_open_own(const struct client *);
/* Sends connection.blocked or unblocked to a client that has the capability, once for each turn. */
void client_tell_blocked(struct client *, bool blocked, const char *reason);

/* The same for an alarm of RabbitMQ, which is passed on where nothing is buffered. */
void client_tell_alarm(struct client *, bool blocked);

struct channel *client_channel(struct client *, uint16_t number);
void client_add_channel(struct client *, uint16_t number, struct channel *);
void client_remove_channel(struct client *, uint16_t number);
/* From now on it sends on an upstream of its own alone. */
void client_set_apart(struct client *);
