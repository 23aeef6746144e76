#pragma once

/* Looks the hosts of upstream.url up while nobody has logged in, who would find out: at the start,
 * and again as long as one is unknown. The log and /readyz tell. RabbitMQ itself hears nothing of
 * it. */

#include <stdint.h>

struct upstreams;

struct lookup {
    struct upstreams *upstreams;
    unsigned left; /* hosts that are still to be looked up */
    uint64_t begun_ms;
};

void lookup_begin(struct lookup *, struct upstreams *);
/* With each tick at which nobody could log in. */
void lookup_again(struct lookup *, uint64_t now_ms);
