#pragma once

/* Between the files of the model of RabbitMQ. */

#include "ledger.h"
#include "prng.h"
#include "rabbit.h"
#include "talker.h"

enum { RABBIT_CHANNELS_MAX = 2047 };

struct rabbit_node {
    bool is_down, is_frozen, is_silent, is_lost;
};

struct rabbit_rights {
    unsigned password; /* how often it was changed */
    bool is_without_vhost;
    unsigned connections_max, channels_max; /* 0: any number */
};

struct rabbit {
    struct rabbit_rights rights[LOGINS];
    bool is_forbidden[DEST_COUNT];
    struct rabbit_node nodes[RABBIT_NODES];
    unsigned node_count;
    struct prng prng;
    bool is_up, is_frozen, is_alarmed;
    bool speaks_oddly, has_small_frames;
    uint64_t opens_us; /* what a channel.open takes */
    bool breaks_over[DEST_QUEUES];
    uint16_t channel_max;
    uint32_t frame_max;
    uint64_t confirm_us; /* most that a confirm takes */
    enum queue_mode modes[DEST_QUEUES];
    uint64_t next_channel; /* numbers channels over all connections */
    uint64_t seed, next_connection;
    struct rabbit_connection *connections;
    uint64_t went_on_us; /* after it, or a node, was frozen */
    struct {
        uint64_t second;
        unsigned count, clients; /* in it; those that had gone when it began */
    } refusals;
    unsigned count, ends;
};
extern struct rabbit rabbit;

enum verdict { VERDICT_ACK, VERDICT_NACK, VERDICT_NONE };

/* A publish that was not confirmed, or whose confirm may not have arrived. */
struct pending {
    uint32_t message;
    uint64_t tag, came_us, ready_us;
    enum verdict verdict;
    enum destination destination;
    bool is_said;
    bool is_missed;               /* the proxy was leaving by then, and may not have listened */
    uint64_t said_us, said_bytes; /* the confirm ends behind so many bytes of the connection */
};

enum { RABBIT_CONSUMERS_MAX = 8, CONSUMER_TAG_BYTES = 24 };

struct rabbit_consumer {
    char tag[CONSUMER_TAG_BYTES]; /* "": it was cancelled */
    bool acks;
    unsigned left, unsettled; /* still to be sent to it; sent and not settled */
};

/* Sent, and not settled. */
struct rabbit_delivery {
    uint32_t number; /* deliveries.h */
    uint64_t tag;
    int consumer; /* -1: basic.get */
};

/* An ack, nack or reject in a transaction. */
struct rabbit_settling {
    uint64_t tag;
    bool multiple;
};

struct rabbit_channel {
    uint64_t serial;
    bool confirms, is_transactional, is_closing;
    uint64_t tag;
    struct pending *pending; /* in the order of their tags */
    unsigned count, capacity;
    uint32_t *uncommitted;
    unsigned uncommitted_count, uncommitted_capacity;
    struct rabbit_consumer consumers[RABBIT_CONSUMERS_MAX];
    unsigned consumer_count;
    uint16_t prefetch, all_prefetch; /* of each consumer, of the channel; 0: no limit */
    uint64_t delivery_tag;
    struct rabbit_delivery *open;
    unsigned open_count, open_capacity;
    struct rabbit_settling *said;
    unsigned said_count, said_capacity;
    /* the publish that is coming in */
    bool is_inside, is_mandatory;
    enum destination destination;
    uint8_t *header, *body;
    uint32_t header_len;
    uint64_t body_len, body_size;
};

struct rabbit_connection {
    struct rabbit_connection *next;
    struct talker talker;
    struct event confirm, beat, deliver, gone;
    struct prng prng; /* of what it sends to consumers */
    unsigned login;   /* LOGINS: none yet */
    uint64_t came_us;
    unsigned node;
    uint16_t channel_max;
    bool is_open, is_closing, publishes, is_told_blocked;
    struct event opening; /* of a channel: nothing else is looked at before it is open */
    uint16_t opens;
    bool is_left; /* the proxy has closed it */
    bool is_own;  /* one client's alone */
    uint32_t frame_max;
    uint16_t highest; /* channel number that was ever open */
    struct rabbit_channel *channels[RABBIT_CHANNELS_MAX + 1];
};

struct rabbit_connection *rabbit_connection_new(struct end *, unsigned node);
static inline bool rabbit_is_frozen(const struct rabbit_connection *c)
{
    return rabbit.is_frozen || rabbit.nodes[c->node].is_frozen;
}
/* The connection is lost, or was left: nothing more comes of it. Frees it, some time later. */
void rabbit_connection_lose(struct rabbit_connection *, bool resets);
void rabbit_connection_close(struct rabbit_connection *, uint16_t code, const char *text);
/* The same over a method. */
void rabbit_connection_close_over(struct rabbit_connection *, uint16_t code, const char *text,
                                  amqp_method_number_t cause);
void rabbit_connection_listen(struct rabbit_connection *);
/* In an alarm who is there hears of it at once, who comes then with its first publish. */
void rabbit_tell_blocked(struct rabbit_connection *);
/* Nothing that is pending on it comes any more. `is_left`: because the proxy has closed it. */
void rabbit_channel_lose(struct rabbit_connection *, uint16_t number, bool is_left);

/* rabbit_publish.c: publishes and their confirms. */
void rabbit_publish_begins(struct rabbit_connection *, uint16_t number, const struct frame *);
void rabbit_content_comes(struct rabbit_connection *, uint16_t number, const struct frame *);
/* What a queue was silent about. */
void rabbit_speak_again(struct rabbit_connection *, enum destination);
void rabbit_plan_confirms(struct rabbit_connection *);
void rabbit_commit(struct rabbit_connection *, struct rabbit_channel *, bool keeps);

/* Closes the channel over what came. */
void rabbit_raise(struct rabbit_connection *, uint16_t number, uint16_t code,
                  amqp_method_number_t cause);

/* rabbit_consume.c */
void rabbit_qos(struct rabbit_channel *, const amqp_basic_qos_t *);
void rabbit_consume(struct rabbit_connection *, uint16_t number, const amqp_basic_consume_t *);
void rabbit_cancel(struct rabbit_connection *, uint16_t number, amqp_bytes_t tag);
void rabbit_get(struct rabbit_connection *, uint16_t number, const amqp_basic_get_t *);
/* An ack, nack or reject. */
void rabbit_settle(struct rabbit_connection *, uint16_t number, uint64_t tag, bool multiple);
/* What of those a transaction has held. */
void rabbit_commit_settled(struct rabbit_connection *, struct rabbit_channel *, bool keeps);
void rabbit_plan_deliveries(struct rabbit_connection *);
void rabbit_lose_deliveries(struct rabbit_channel *, bool is_left);

/* rabbit_rights.c. A login is refused. */
void rabbit_note_refusal(const struct rabbit_connection *);
/* LOGINS: nobody's. */
unsigned rabbit_find_login(amqp_bytes_t response);
/* In RabbitMQ's words, NULL: it does not. */
const char *rabbit_refuses_open(const struct rabbit_connection *);
const char *rabbit_refuses_channel(const struct rabbit_connection *);
