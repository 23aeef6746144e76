#pragma once

/* RabbitMQ, as a model that speaks frames: logins, channels, publishes with confirms (late, in
 * batches, out of turn), returns, exceptions, transactions, consumers; and what may befall it. */

#include <stdbool.h>
#include <stdint.h>

#include "ledger.h"

struct end;

void rabbit_begin(uint64_t seed);
void rabbit_end(void);
/* A connection to it. NULL: refused. */
struct end *rabbit_dial(int port, bool *silent);

/* ---- several nodes of one cluster: what one has confirmed, all have ---- */

enum { RABBIT_NODES = 2, RABBIT_PORT = 5672, RABBIT_PORT_STEP = 10 }; /* of the next node */
/* How many the proxy knows of; 1 at first. */
void rabbit_use_nodes(unsigned count);
void rabbit_node_kill(unsigned node);
void rabbit_node_stop(unsigned node);
/* It is there again, and goes on if it was frozen. */
void rabbit_node_start(unsigned node);
/* `silent`: who connects to it hears nothing, not even that it is connected. */
void rabbit_node_freeze(unsigned node, bool silent);
/* It does not come back, if another one is left. */
void rabbit_node_lose(unsigned node, bool freezes);

/* ---- rights and limits, of a login or all ---- */

/* The one that RabbitMQ takes now; valid until the next call. */
const char *rabbit_password(unsigned login);
void rabbit_change_password(unsigned login);
bool rabbit_has_new_password(unsigned login);
/* Its connections are closed, and no other is opened. */
void rabbit_delete_vhost(unsigned login);
/* 0: any number. */
void rabbit_limit(unsigned login, unsigned connections, unsigned channels);
/* The vhost is there, nothing is limited. */
void rabbit_restore_rights(unsigned login);
/* Nobody may publish there. */
void rabbit_forbid(enum destination, bool is_forbidden);

/* ---- what befalls all of it ---- */

/* Its process ends: connections are reset, what it had not confirmed is gone. It is away. */
void rabbit_kill(void);
/* It tells its clients (320), and is away. */
void rabbit_stop(void);
/* It is there, perhaps with other limits. */
void rabbit_start(void);
void rabbit_freeze(bool is_frozen);
/* Says blocked, and reads no more from who publishes. */
void rabbit_alarm(bool is_on);
enum queue_mode { QUEUE_CONFIRMS, QUEUE_SILENT, QUEUE_NACKS };
/* Of one of the queues, for what comes from now on; what it has kept silent about is confirmed when
 * it confirms again. */
void rabbit_queue(enum destination, enum queue_mode);
/* The network cuts one connection, or all. */
void rabbit_cut(bool all);
/* It closes one connection with an error of its own. */
void rabbit_fault(uint16_t code);
/* The queues of all consumers are deleted, or their leaders move: they are cancelled. */
void rabbit_cancel_all(void);
/* The most that a confirm takes from now on. */
void rabbit_delay(uint64_t us);
/* The words of its exceptions are bytes of any kind, as it quotes what it was given. */
void rabbit_speak_oddly(bool is_on);
/* Each channel.open takes so long, and its connection with it. */
void rabbit_open_slowly(uint64_t us);
uint64_t rabbit_opens_us(void);
/* It starts again, with frames below the least that AMQP has, or with larger ones. */
void rabbit_allow_small_frames(bool is_on);
/* Each message to the queue ends the connection on which it comes: 541, over no method. */
void rabbit_break_over(enum destination, bool is_on);
unsigned rabbit_connections(void);
bool rabbit_is_up(void);
/* How often it was killed, stopped, or lost its connections. */
unsigned rabbit_ends(void);
