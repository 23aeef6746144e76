#pragma once

/* Why something that a client sends is refused, and who hears of it: a decision as a value. It is
 * said in one place. */

#include <stdint.h>

#include "amqp/method.h"

struct channel;

enum refused {
    REFUSED_CHANNEL, /* channel.close */
    REFUSED_CLIENT,  /* connection.close */
    REFUSED_LEAVING, /* the same, for no fault of its own: what it still publishes is stored */
};

struct refusal {
    enum refused whom;
    uint16_t code;
    amqp_method_number_t cause;
    char text[256];
};

void refusal_set(struct refusal *, enum refused, uint16_t code, const char *text,
                 amqp_method_number_t cause);
/* The channel may be gone afterwards. */
void refusal_say(const struct refusal *, struct channel *);
