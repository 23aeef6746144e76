#pragma once

/* What a login has learned of what ends its connections, kept for a while: methods that RabbitMQ
 * has closed a shared one over, and how many channels it allows the user. */

#include <stdbool.h>
#include <stdint.h>

#include "amqp/method.h"

enum { CAUTION_METHODS = 8, CAUTION_METHOD_MS = 10 * 60 * 1000, CAUTION_LIMIT_MS = 60 * 1000 };

struct caution {
    struct {
        amqp_method_number_t method;
        uint64_t until_ms;
    } methods[CAUTION_METHODS];
    uint32_t channels;          /* that the user may have on all connections */
    uint64_t channels_until_ms; /* it may have been raised: looked at again then */
    char channels_text[256];    /* RabbitMQ's words */
};

/* RabbitMQ has ended a shared upstream over this method. The oldest of too many is forgotten. */
void caution_beware(struct caution *, amqp_method_number_t, uint64_t now_ms);
bool caution_is_wary(const struct caution *, amqp_method_number_t, uint64_t now_ms);
/* RabbitMQ has closed a connection over a channel too many, when there were so many of them. */
void caution_learn_limit(struct caution *, const char *text, uint32_t channels, uint64_t now_ms);
/* RabbitMQ's words if so many are all that it allows, else NULL. */
const char *caution_limit(const struct caution *, uint32_t channels, uint64_t now_ms);
