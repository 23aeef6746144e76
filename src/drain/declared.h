#pragma once

/* The declarations of one queue that wait in the spool, by a hash of their bytes: one that is
 * identical to one that waits needs no place of its own, since that one goes out before whatever
 * follows. Nothing undoes it before: in an outage deletions are refused, and those that come while
 * it is drained wait for the names that it promises (names.h). No more of them than records that
 * wait. Kept in memory only: after a restart each is stored once more. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/number_map.h"

struct declared {
    struct number_map hashes; /* their values say nothing */
};

/* Of a method payload; never 0. */
uint64_t declared_hash(const uint8_t *method, size_t len);
static inline uint32_t declared_count(const struct declared *d)
{
    return d->hashes.used;
}
bool declared_has(const struct declared *, uint64_t hash);
void declared_add(struct declared *, uint64_t hash);
void declared_remove(struct declared *, uint64_t hash);
void declared_clear(struct declared *);
