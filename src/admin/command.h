#pragma once

/* What a person may change: POST /queues/ID/pause, /resume, /retry and /discard, the latter two
 * with ?seq=N for one message. Without it retry is for all, discard wants ?all=1. Anything else
 * behind the ? is refused: it may have been meant to say which message. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "admin/reply.h"

struct proxy;

/* Takes over what the reply owns. */
typedef void (*command_done)(uint64_t owner, struct reply *);

/* What stands behind the ?; all zeros: nothing. */
struct command_parameters {
    uint64_t seq; /* 0: not given */
    bool all;
    const char *mistake; /* what is wrong with them; NULL: nothing is */
};

/* Takes one more; `value` is NULL without a =. */
void command_take(struct command_parameters *, const char *key, size_t key_len, const char *value,
                  size_t value_len);
/* `done` is called once, now or later. */
void command_run(struct proxy *, const char *path, const struct command_parameters *,
                 command_done done, uint64_t owner);
