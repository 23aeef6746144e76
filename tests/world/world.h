#pragma once

/* The core of the proxy, from sessions down to upstreams, in one thread without a socket, a disk or
 * a clock that runs by itself: its network, its spool's thread, its loop and RabbitMQ are
 * replaced at link time by what is in this folder. A test says what a client sends, looks at what
 * it hears, and lets time pass.
 *
 * Each test begins with world_setup and ends with world_teardown, which fails if anything is left:
 * a stream, a client, a place in a queue, a byte of memory that counts. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "amqp/frame.h"
#include "amqp/method.h"
#include "peer/runtime.h"
#include "pool/login.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "session/client.h"
#include "upstream/upstream.h"

struct world {
    struct config config;
    struct runtime rt;
    struct upstreams upstreams;
    struct pools pools;
    struct logins logins;
    struct clients clients;
    uint64_t now_ms;
};
extern struct world world;

int world_setup(void **state);
int world_teardown(void **state);
/* The same with settings: "SECTION.KEY=VALUE", NULL at the end. To be called once, first. */
void world_begin(const char *const *sets);
/* Events and turns of the loop until nothing more happens; time stands still. */
void world_run(void);
/* Lets time pass, tick by tick, and runs. */
void world_pass(uint64_t ms);
/* The queue of guest in "/"; fails if there is none. */
struct queue *world_queue(void);

/* ---- a client ---- */

struct peer; /* the other end of a stream */

/* Connected, and nothing said. */
struct peer *peer_connect(void);
/* Logged in as guest, connection.open-ok read. */
struct peer *peer_login(void);
/* The same, as a user with a password, in a vhost. NULL if it is refused: *code is why. */
struct peer *peer_login_as(const char *user, const char *password, const char *vhost,
                           uint16_t *code);
void peer_send(struct peer *, const void *bytes, size_t len);
void peer_send_start_ok(struct peer *, const char *user, const char *password);
/* From connection.tune to connection.open, the answer to which is not read. */
void peer_enter(struct peer *, const char *vhost);
void peer_send_method(struct peer *, uint16_t channel, amqp_method_number_t, const void *fields);
/* A method without fields. */
void peer_send_plain(struct peer *, uint16_t channel, amqp_method_number_t);
void peer_publish(struct peer *, uint16_t channel, const char *routing_key, const char *body);
/* With these properties: their flags, and what follows them. */
void peer_publish_with(struct peer *, uint16_t channel, const char *routing_key, const char *body,
                       uint16_t flags, const void *properties, size_t len, bool mandatory);
/* A message, mandatory if that is asked for, to an exchange. */
void peer_publish_to(struct peer *, uint16_t channel, const char *exchange, const char *routing_key,
                     const char *body, bool mandatory);
void peer_open_channel(struct peer *, uint16_t channel);
void peer_open_confirming(struct peer *, uint16_t channel);
/* Logged in, with channel 1: in confirm mode, or as a consumer of q. */
struct peer *peer_confirming(void);
struct peer *peer_consumer(void);
/* Consumes q on channel 1. */
void peer_consume(struct peer *);
/* The proxy's end. */
struct stream *peer_stream(const struct peer *);
/* The next frame's method number, 0 if nothing more was said; runs first. A header or body frame
 * is its type. The frame is valid until the next call. */
uint32_t peer_read(struct peer *, struct frame *);
/* The next frame is this method on this channel. Returns its fields, valid until the next call. */
const void *peer_expect(struct peer *, uint16_t channel, amqp_method_number_t);
/* The next frame is a basic.ack with this tag, on channel 1. */
void peer_expect_ack(struct peer *, uint64_t tag);
/* Nothing more was said. */
void peer_expect_nothing(struct peer *);
/* The proxy has closed the connection. Frees the peer. */
void peer_expect_end(struct peer *);
/* Goes away. Frees the peer. */
void peer_die(struct peer *);
/* Closes the connection as it should be. Frees the peer. */
void peer_close(struct peer *);

/* ---- RabbitMQ ---- */

enum broker_confirms { BROKER_ACKS, BROKER_NACKS, BROKER_SILENT };

struct broker {
    bool is_there;
    bool is_frozen; /* reads nothing */
    enum broker_confirms confirms;
    bool returns; /* what is mandatory comes back before its confirm */
    bool offers_confirms;
    uint16_t refuse_code; /* connection.open is answered with connection.close, 0: it is not */
    char refuse_text[128];
    char refused_password[256]; /* logins with it are refused, "": none */
    /* What a body begins with decides about it: with '!' it closes its channel with this code, with
     * '?' its connection, with '~' it is not confirmed before broker_confirm_all, and with '@' its
     * channel is stuck. */
    uint16_t close_code;
    bool silent_calls;              /* methods are not answered, nor the close of a channel */
    amqp_method_number_t silent_on; /* this one is not answered; 0: none */
    bool is_mute;                   /* new connections are taken, and nothing is said */
    bool is_slow_to_accept;         /* a connection that is asked for comes when this is over */
    unsigned bad_channels; /* so many of those that are opened next nack all that they get */
    uint16_t channel_max;
    unsigned connections; /* that were made */
    unsigned published;   /* messages that came, all connections together */
    char bodies[256][64];
    char passwords[256][256]; /* of each connection, as they were made, from 1 */
    unsigned origins[256];    /* which connection each came on, as they were made, from 1 */
    unsigned calls;           /* other methods */
    char heard[1024][32];     /* their names */
    char last_call[64];       /* the name of the last method that came, but for publishes */
};
extern struct broker broker;

/* All its connections are gone, and no other is taken. */
void broker_down(void);
void broker_up(void);
/* The connections are lost, and others are taken. */
void broker_cut(void);
/* Confirms what has come and is not confirmed. */
void broker_confirm_all(void);
/* Answers the close of channels that are stuck. */
void broker_close_stuck(void);
/* How often it has got this method. */
unsigned broker_heard(const char *method);
/* The proxy's end of the connection that was made last. */
struct stream *broker_last_stream(void);
/* Gives the last message of each channel back, if it is mandatory; says nothing of its confirm. */
void broker_return_all(void);
/* Sends a method on every connection. */
void broker_say(uint16_t channel, amqp_method_number_t, const void *fields);
/* Sends a message to a consumer on the connection that was made last; without a body, its method
 * alone. */
void broker_deliver(uint16_t channel, const char *consumer, uint64_t tag, const char *body);
/* What follows on that method. */
void broker_deliver_rest(uint16_t channel, const char *body);
/* The same on every connection, behind a method of broker_say; all of it, or a frame alone. */
void broker_say_content(uint16_t channel, const char *body);
void broker_say_header(uint16_t channel, const char *body);
void broker_say_body(uint16_t channel, const char *body);

/* ---- the spool ---- */

struct disk {
    bool is_full;  /* appends fail, and a new login is not stored */
    bool has_room; /* as of the last look */
    bool is_nearly_full;
    bool hangs; /* no job comes back */
    bool deletes_fail, rejects_fail, reads_fail;
    bool is_damaged;           /* nothing is taken out */
    uint64_t frames_too_large; /* the record with this sequence number is for frame_max; 0: none */
    uint64_t damaged; /* the rejected record with this sequence number cannot be moved; 0: none */
    unsigned appended, deleted, rejected;
};
extern struct disk disk;

/* How many records wait, or are rejected. */
unsigned disk_count(bool rejected);
/* A record is not there any more, as one that cannot be read. */
void disk_lose(uint64_t seq);
/* The body of a record that waits; NULL behind the last. Valid until the next run. */
const char *disk_body(unsigned index);

/* ---- between the files of this folder ---- */

void world_broker_reset(void);
bool world_broker_run(void);
bool world_streams_run(void);
void world_streams_reset(void);
bool world_spool_run(void);
void world_spool_reset(void);
/* What was written to a stream and not taken yet. */
uint8_t *world_written(struct stream *, size_t *len);
void world_take_written(struct stream *, size_t len);
void world_arrive(struct stream *, const void *bytes, size_t len);
void world_end_stream(struct stream *, int status);
bool world_is_open(const struct stream *);
bool world_is_connecting(const struct stream *);
void world_set_full(struct stream *, bool full);
/* Handles of streams, for walks: NULL at the end. */
struct stream *world_stream(unsigned index);
bool world_is_server_side(const struct stream *);
