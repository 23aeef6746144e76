#pragma once

/* The records of a queue that RabbitMQ has answered for and that stay in the spool all the same:
 * they, or pages near them, are damaged, and nothing is taken out there. No drain sends them again.
 * Kept in memory only: after a restart they are delivered once more. Where all of a queue stays
 * that is a few runs of numbers. All zeros: there are none. */

#include <stdbool.h>
#include <stdint.h>

struct remains {
    struct remains_run {
        uint64_t first, last;
    } * runs; /* ascending, with a gap between any two */
    uint32_t count, capacity;
};

/* False if it was one of them before. */
bool remains_add(struct remains *, uint64_t seq);
bool remains_have(const struct remains *, uint64_t seq);
void remains_clear(struct remains *);
