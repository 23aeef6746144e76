#pragma once

/* What RabbitMQ has not confirmed in time goes to the spool without the connection being given up:
 * after pool.confirm_timeout, or a second after an alarm. */

#include <stdint.h>

struct upstreams;

/* Once for each tick. */
void stalled_look(struct upstreams *, uint64_t now_ms);
