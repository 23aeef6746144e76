#pragma once

/* A connection to RabbitMQ, as its own files see it: src/upstream/upstream*.c, addresses.c and
 * opening.c. What others do with it is in upstream/upstream.h. */

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "amqp/frame.h"
#include "amqp/method.h"
#include "base/list.h"
#include "net/stream.h"
#include "upstream/links.h"
#include "upstream/server.h"
#include "upstream/targets.h"
#include "upstream/under_way.h"

struct runtime;
struct tls_context;
struct upstream;

/* What RabbitMQ has said of a login before the upstream was open. */
enum upstream_refusal {
    REFUSAL_NONE,  /* nothing: it was not there, or has gone */
    REFUSAL_LOGIN, /* the login or the vhost is not welcome */
    REFUSAL_LIMIT, /* welcome, but not now: a limit of connections is reached */
};

/* Why an upstream could not be opened, or was lost. */
struct upstream_end {
    enum upstream_refusal refusal; /* if there is one, code and text are RabbitMQ's words */
    uint16_t code;                 /* of RabbitMQ's connection.close; 0 if there was none */
    amqp_method_number_t cause;
    char text[256];
};

struct upstream_events {
    void (*on_tuned)(struct upstream *); /* if it was dialled without a vhost */
    void (*on_open)(struct upstream *);
    void (*on_failed)(struct upstream *, const struct upstream_end *);
    void (*on_lost)(struct upstream *, const struct upstream_end *); /* links are still attached */
    void (*on_blocked)(struct upstream *);  /* connection.blocked or unblocked came */
    void (*on_writable)(struct upstream *); /* its stream takes bytes again */
    void (*on_left)(struct upstream *);     /* after upstream_leave alone */
};

enum upstream_state {
    UPSTREAM_RESOLVING,
    UPSTREAM_CONNECTING,
    UPSTREAM_START,   /* protocol header sent, waits for connection.start */
    UPSTREAM_TUNE,    /* start-ok sent */
    UPSTREAM_TUNED,   /* RabbitMQ has accepted the login; which vhost is not known yet */
    UPSTREAM_OPENING, /* connection.open sent */
    UPSTREAM_OPEN,
    UPSTREAM_LEAVING, /* connection.close sent, waits for close-ok */
    UPSTREAM_CLOSED,
};

enum upstream_use {
    UPSTREAM_FOR_ALL,   /* of a pool, or of one client */
    UPSTREAM_FOR_DRAIN, /* alone: RabbitMQ may end it over what is replayed */
};

/* All of them, and what they have found out about RabbitMQ's nodes. */
struct upstreams {
    struct runtime *rt;
    struct list all;
    struct targets targets;
    struct server server;
    struct tls_context *tls; /* NULL: not used */
};

struct upstream {
    struct runtime *rt;
    struct upstreams *upstreams;
    struct stream stream;
    uv_getaddrinfo_t resolve;
    struct addrinfo *addresses, *address; /* of the host: all of them, and the one being tried */
    uint64_t address_deadline_ms;         /* then the next one is tried, if there is one */
    enum upstream_state state;
    enum upstream_use use;
    uint64_t id; /* for the log */
    const struct upstream_events *events;
    void *owner;
    struct list node; /* in upstreams->all, and its owner's list */
    struct list owner_node;

    struct target *target; /* one of upstreams->targets */
    char *user, *password, *vhost;
    uint8_t *client_properties; /* table sent in start-ok; NULL: the proxy's own */
    size_t client_properties_len;
    uint8_t *server_properties; /* kept until open */
    size_t server_properties_len;

    struct links links;
    uint32_t frame_max;
    uint64_t heartbeat_ms;
    uint64_t deadline_ms; /* of the handshake or of leaving */
    uint64_t idle_since_ms;
    struct under_way under_way; /* publishes sent by relays */
    struct upstream_end end;    /* why, once it is closed */
    bool offers_confirms;
    bool blocked;
    uint32_t stuck; /* channels whose close RabbitMQ does not answer, nor the connection's before */
    uint64_t blocked_since_ms, unblocked_ms; /* as of the last alarm; 0: there was none */
};
