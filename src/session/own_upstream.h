#pragma once

/* An upstream that one client has to itself: for what belongs to a connection, and for what
 * RabbitMQ ends, or may end, a connection over. */

#include <stdbool.h>

struct client;

/* In this alarm RabbitMQ could not be asked on one. */
bool own_upstream_is_lacking(const struct client *);
/* Begins one; client_open_own tells when it is there. */
void own_upstream_dial(struct client *);
/* The client needs it no more. What was published there is confirmed first. */
void own_upstream_release(struct client *);
