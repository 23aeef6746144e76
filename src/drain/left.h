#pragma once

/* A channel that a drain has left because RabbitMQ does nothing on it: RabbitMQ 3.10 takes a minute
 * for each publish to a quorum queue without a leader that the channel has not known before, and
 * all that is behind waits. Its number is free when RabbitMQ has answered its close. */

struct backlog;
struct link;

enum { LEFT_MAX = 32 }; /* of one backlog */

/* Closes the link's channel, which is nobody's from then on; the link is detached. */
void left_take(struct backlog *, struct link *);
