#pragma once

/* The handshake that ends a channel or a connection (AMQP 0-9-1, 1.5.2.5 and 1.4.2.5), as one side
 * of it sees it. Either side may ask with a close, and each close is owed a close-ok. The two may
 * cross: then both are owed, in either order. RabbitMQ answers a close that crosses its own, and
 * still takes the close-ok for its own. Until nothing is owed the number belongs to the old
 * channel: a close-ok that is still on its way would end the next one that has it. */

#include <stdbool.h>

enum close_state {
    CLOSE_NONE,    /* nobody has asked */
    CLOSE_SENT,    /* we have asked; they owe a close-ok */
    CLOSE_ASKED,   /* they have asked; we owe a close-ok */
    CLOSE_CROSSED, /* both have asked, both owe */
    CLOSE_OWED,    /* both have asked, they have answered; we owe */
    CLOSE_DONE,    /* nothing is owed */
};

enum close_event {
    CLOSE_WE_ASK,
    CLOSE_THEY_ASK,
    CLOSE_WE_ANSWER,
    CLOSE_THEY_ANSWER,
};

/* What has been said, or is about to be. False, and nothing changes, if it has no place here: a
 * close-ok that nobody has asked for, a second close. */
bool close_move(enum close_state *, enum close_event);
/* We owe a close-ok. */
bool close_is_owed(enum close_state);
/* They owe a close-ok. */
bool close_is_awaited(enum close_state);
