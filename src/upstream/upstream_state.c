#include "upstream/upstream_state.h"

#include "base/states.h"
#include "peer/runtime.h"

static const struct states states = {
    .object = "upstream",
    .names = {[UPSTREAM_RESOLVING] = "resolving",
              [UPSTREAM_CONNECTING] = "connecting",
              [UPSTREAM_START] = "start",
              [UPSTREAM_TUNE] = "tune",
              [UPSTREAM_TUNED] = "tuned",
              [UPSTREAM_OPENING] = "opening",
              [UPSTREAM_OPEN] = "open",
              [UPSTREAM_LEAVING] = "leaving",
              [UPSTREAM_CLOSED] = "closed"},
    .next =
        {
            [UPSTREAM_RESOLVING] = TO(UPSTREAM_CONNECTING) | TO(UPSTREAM_CLOSED),
            [UPSTREAM_CONNECTING] =
                TO(UPSTREAM_CONNECTING) | TO(UPSTREAM_START) | TO(UPSTREAM_CLOSED),
            [UPSTREAM_START] = TO(UPSTREAM_CONNECTING) | TO(UPSTREAM_TUNE) | TO(UPSTREAM_CLOSED),
            [UPSTREAM_TUNE] = TO(UPSTREAM_TUNED) | TO(UPSTREAM_CLOSED),
            [UPSTREAM_TUNED] = TO(UPSTREAM_OPENING) | TO(UPSTREAM_CLOSED),
            [UPSTREAM_OPENING] = TO(UPSTREAM_OPEN) | TO(UPSTREAM_CLOSED),
            [UPSTREAM_OPEN] = TO(UPSTREAM_LEAVING) | TO(UPSTREAM_CLOSED),
            [UPSTREAM_LEAVING] = TO(UPSTREAM_CLOSED),
        },
};

void upstream_move(struct upstream *u, enum upstream_state to)
{
    u->rt->counters.upstreams -= u->state == UPSTREAM_OPEN;
    u->rt->counters.upstreams += to == UPSTREAM_OPEN;
    STATE_MOVE(&states, u->state, to);
}
