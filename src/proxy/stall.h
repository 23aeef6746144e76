#pragma once

/* A spool that does not come back: a disk that hangs, or another process that holds LMDB's lock. */

#include <stdint.h>

struct proxy;

/* To be called now and then: says it, and at the end of the time for an end gives up. */
void stall_look(struct proxy *, uint64_t now_ms);
