#pragma once

/* A connection to RabbitMQ, and its channels as links.
 *
 * upstream_dial resolves, connects and shakes hands within upstream.connect_timeout; then comes
 * exactly one of on_open and on_failed. After on_open comes exactly one on_lost, unless the owner
 * closes first. Links get their frames through their handler, and on_link_lost when the upstream
 * is gone; the handler must let go of the link then. */

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
    struct list idle;           /* links that serve nobody, open for the next that needs one */
    uint32_t idle_count;
    struct upstream_end end; /* why, once it is closed */
    bool offers_confirms;
    bool blocked;
    uint64_t blocked_since_ms;
};

void upstreams_init(struct upstreams *, struct runtime *);
/* They must be gone. */
void upstreams_deinit(struct upstreams *);

/* Dials the broker that is to be tried next. Without a vhost (NULL) it stays TUNED until
 * upstream_enter. Without a user (NULL) its host is looked up and no more: on_tuned or on_failed.
 */
struct upstream *upstream_dial(struct upstreams *, const char *user, const char *password,
                               const char *vhost, const uint8_t *client_properties,
                               size_t client_properties_len, const struct upstream_events *,
                               void *owner);
/* Sends tune-ok and connection.open on a tuned one: on_open or on_failed follows. */
void upstream_enter(struct upstream *, const char *vhost);
/* Sends connection.close and frees the upstream when RabbitMQ has answered, or at once if it is
 * not open. Links must be detached. No event comes any more. */
void upstream_close(struct upstream *);
/* The same for an open upstream without links, and on_left tells that RabbitMQ has answered (what
 * belonged to the connection is gone then), or that no answer will come. */
void upstream_leave(struct upstream *);
/* Tells RabbitMQ that a secret that may run out (a token) has a successor. One that is longer than
 * a frame of this connection cannot be told: the connection keeps the one it was opened with. */
void upstream_update_secret(struct upstream *, const char *secret);
/* Gives up on an upstream that misbehaves, as if it had been lost: on_lost follows. */
void upstream_abort(struct upstream *, const char *why);
/* Once for each tick: heartbeats, deadlines. May report on_failed or on_lost. */
void upstream_tick(struct upstream *, uint64_t now_ms);

/* An alarm: RabbitMQ reads nothing more from it, and the spool takes what there is to send. With
 * buffering off there is nowhere else to go: it waits, as without a proxy. */
bool upstream_is_unread(const struct upstream *);
/* Gives the link the lowest free channel number; false if there is none. Sends nothing. */
bool upstream_attach(struct upstream *, struct link *);
void upstream_detach(struct link *);
/* It serves nobody, and stays open for the next that needs one. */
void upstream_keep_idle(struct link *);
