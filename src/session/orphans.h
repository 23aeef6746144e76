#pragma once

/* Channels of a client's own upstream that outlive the client, or its channel: they wait for what
 * RabbitMQ has not answered. RabbitMQ goes on delivering to the consumers there, and keeps what
 * they have not settled from others. So they wait for a second; without consumers, and queues of
 * the connection's own, for pool.confirm_timeout. Then what is not answered goes to the spool, and
 * the channel is closed. If RabbitMQ does not answer that for pool.confirm_timeout, and all that is
 * left on the connection are such channels, the connection is closed. */

#include <stdint.h>

struct upstreams;

/* Once for each tick. */
void orphans_look(struct upstreams *, uint64_t now_ms);
