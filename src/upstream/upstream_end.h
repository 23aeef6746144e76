#pragma once

/* How a connection to RabbitMQ ends: its owner and its links are told, the broker is marked if it
 * is at fault, and the upstream is freed once nothing of libuv's refers to it. */

#include "upstream/upstream_struct.h"

/* Once: what comes later says nothing new. on_failed, on_lost or on_left follows. */
void upstream_end(struct upstream *, const struct upstream_end *);
/* The same for what RabbitMQ has not said itself; uv_status is 0 or libuv's error. */
void upstream_end_with(struct upstream *, const char *what, int uv_status);
/* RabbitMQ has closed the connection, in its own words. */
void upstream_end_by_peer(struct upstream *, const amqp_connection_close_t *);
/* RabbitMQ has ended the connection, or it broke, without a word. */
void upstream_end_without_word(struct upstream *, int uv_status);
/* What a close of ours has waited for is there, or will never be. */
void upstream_end_leaving(struct upstream *);
/* Lets go of it; nobody is told. */
void upstream_abandon(struct upstream *);
/* Its links are told that it is gone. */
void upstream_lose_links(struct upstream *);
void upstream_free_if_gone(struct upstream *);
