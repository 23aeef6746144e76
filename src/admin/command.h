#pragma once

/* What a person may change: POST /queues/ID/pause, /resume, /retry and /discard, the latter two
 * with ?seq=N for one message. Without it retry is for all, discard wants ?all=1. */

#include <stdbool.h>
#include <stdint.h>

#include "admin/reply.h"

struct proxy;

/* Takes over what the reply owns. */
typedef void (*command_done)(uint64_t owner, struct reply *);

/* `done` is called once, now or later. `seq` is the text of the number, NULL: none was given. */
void command_run(struct proxy *, const char *path, const char *seq, bool all, command_done done,
                 uint64_t owner);
