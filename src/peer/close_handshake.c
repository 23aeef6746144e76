#include "peer/close_handshake.h"

#include <stdint.h>

#include "base/assert.h"

/* CLOSE_NONE, which nothing leads back to, stands for "has no place here". */
static const uint8_t next[CLOSE_DONE + 1][CLOSE_THEY_ANSWER + 1] = {
    [CLOSE_NONE] = {[CLOSE_WE_ASK] = CLOSE_SENT, [CLOSE_THEY_ASK] = CLOSE_ASKED},
    [CLOSE_SENT] = {[CLOSE_THEY_ASK] = CLOSE_CROSSED, [CLOSE_THEY_ANSWER] = CLOSE_DONE},
    [CLOSE_ASKED] = {[CLOSE_WE_ASK] = CLOSE_CROSSED, [CLOSE_WE_ANSWER] = CLOSE_DONE},
    [CLOSE_CROSSED] = {[CLOSE_WE_ANSWER] = CLOSE_SENT, [CLOSE_THEY_ANSWER] = CLOSE_OWED},
    [CLOSE_OWED] = {[CLOSE_WE_ANSWER] = CLOSE_DONE},
};

bool close_move(enum close_state *state, enum close_event event)
{
    ENSURE(*state <= CLOSE_DONE && event <= CLOSE_THEY_ANSWER);
    enum close_state to = next[*state][event];
    if (to == CLOSE_NONE)
        return false;
    *state = to;
    return true;
}

bool close_is_owed(enum close_state state)
{
    return state == CLOSE_ASKED || state == CLOSE_CROSSED || state == CLOSE_OWED;
}

bool close_is_awaited(enum close_state state)
{
    return state == CLOSE_SENT || state == CLOSE_CROSSED;
}
