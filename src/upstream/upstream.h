#pragma once

/* A connection to RabbitMQ, and its channels as links.
 *
 * upstream_dial resolves, connects and shakes hands within upstream.connect_timeout; then comes
 * exactly one of on_open and on_failed. After on_open comes exactly one on_lost, unless the owner
 * closes first. Links get their frames through their handler, and on_link_lost when the upstream
 * is gone; the handler must let go of the link then. */

#include <stdbool.h>
#include <stdint.h>

#include "upstream/upstream_struct.h"

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
/* It is closed, and goes when the system has answered for its name. */
bool upstream_is_only_looked_up(const struct upstream *);
/* Once for each tick: heartbeats, deadlines. May report on_failed or on_lost. */
void upstream_tick(struct upstream *, uint64_t now_ms);

/* An alarm: RabbitMQ reads nothing more from it, and the spool takes what there is to send. With
 * buffering off there is nowhere else to go: it waits, as without a proxy. */
bool upstream_is_unread(const struct upstream *);
/* That moment, or the end of an alarm since: before, RabbitMQ could not know of what was sent. */
uint64_t upstream_reads_since(const struct upstream *, uint64_t ms);
/* Gives the link the lowest free channel number; false if there is none. Sends nothing. */
bool upstream_attach(struct upstream *, struct link *);
void upstream_detach(struct link *);
/* The channel of the first, which is detached, is the second's from now on. */
void upstream_hand_over(struct link *from, struct link *to);
/* It serves nobody, and stays open for the next that needs one. */
void upstream_keep_idle(struct link *);
