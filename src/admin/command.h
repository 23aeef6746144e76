#pragma once

/* What a person may change: POST /queues/ID/pause, /resume, /retry and /discard, the latter two
 * with ?seq=N for one message. */

#include <stdint.h>

#include "admin/reply.h"

struct proxy;

/* Takes over what the reply owns. */
typedef void (*command_done)(uint64_t owner, struct reply *);

/* `done` is called once, now or later. `seq` is the text of the number, NULL: all of them. */
void command_run(struct proxy *, const char *path, const char *seq, command_done done,
                 uint64_t owner);
