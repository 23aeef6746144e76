#pragma once

/* What the `queues` database holds of each queue: docs/spool-format.md. */

#include <stddef.h>
#include <stdint.h>

#include <lmdb.h>

#include "amqpbuf/status.h"

struct directory_entry {
    uint32_t id;
    char *user, *vhost; /* owned */
    uint8_t *sealed;    /* owned */
    size_t sealed_len;
    uint64_t next_seq;
    uint64_t messages, bytes, rejected;
    unsigned lost; /* DIRECTORY_..._LOST: what cannot be read, and is empty or 0 */
};

/* Login and counters have a checksum each. */
enum {
    DIRECTORY_LOGIN_LOST = 1, /* user, vhost and sealed password */
    DIRECTORY_COUNTERS_LOST = 2,
};

void directory_entry_clear(struct directory_entry *);
/* A value in memory of its own (free), ready to be stored; *len gets its size. */
uint8_t *directory_encode(const struct directory_entry *, size_t *len);
/* Takes a key and value apart into an entry with memory of its own. A damaged value is an entry
 * with something lost; STATUS_DAMAGED if it is the key. */
enum status directory_decode(const MDB_val *key, const MDB_val *value, struct directory_entry *,
                             struct failure *);
void directory_key(uint8_t key[4], uint32_t id);
