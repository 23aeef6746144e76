#pragma once

/* What is remembered of RabbitMQ, so that a client cannot tell the proxy from it, also while it is
 * away: server-properties as it sent them, its frame_max and channel_max. */

#include <stddef.h>
#include <stdint.h>

struct server {
    uint8_t *properties; /* field table as on the wire, its length in front */
    size_t properties_len;
    uint32_t frame_max;
    uint16_t channel_max;
    unsigned major; /* RabbitMQ's version; 0: not known */
};

/* Before the first upstream: the usual capabilities, 131072 and 2047. */
void server_init(struct server *);
void server_deinit(struct server *);
void server_remember(struct server *, const uint8_t *properties, size_t len, uint32_t frame_max,
                     uint16_t channel_max);
