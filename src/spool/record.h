#pragma once

/* Records as bytes: docs/spool-format.md. Pure: no LMDB, no files. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "amqpbuf/spool_format.h"
#include "amqpbuf/status.h"

enum {
    RECORD_VERSION = 1, /* of a record; the spool of format 2 has the same ones as format 1 */
    RECORD_HEAD_BYTES = 56,
    RECORD_INLINE_MAX = 3072, /* longest body in the record itself: all of it in a page, mostly */
    RECORD_PART_CHECKSUM_BYTES = 8,
    /* A part fills one page of 4096 bytes, less LMDB's page header and the checksum: LMDB never
     * has to look for a run of free pages. Measured: see docs/spool-format.md. */
    RECORD_PART_BYTES = 4096 - 16 - RECORD_PART_CHECKSUM_BYTES,
    RECORD_KEY_BYTES = 12,      /* queue, sequence number */
    RECORD_PART_KEY_BYTES = 16, /* the same, and the part, from 1 */
};

/* Keys sort as numbers do: big-endian. */
void record_key(uint8_t key[RECORD_KEY_BYTES], uint32_t queue, uint64_t seq);
void record_part_key(uint8_t key[RECORD_PART_KEY_BYTES], uint32_t queue, uint64_t seq,
                     uint32_t part);
/* Of a key of either kind. */
uint32_t record_key_queue(const uint8_t *key);
uint64_t record_key_seq(const uint8_t *key);
/* Of a part's key. */
uint32_t record_key_part(const uint8_t *key);

/* What a record says; pointers into its bytes. */
struct record {
    enum record_kind kind;
    bool parted; /* the body is in record_part_count(body_size) parts */
    uint64_t received_at_us;
    struct iovec method, header;
    const uint8_t *body; /* NULL if parted */
    uint64_t body_size;
    bool is_rejected;
    struct rejection rejection;
};

uint32_t record_part_count(uint64_t body_size);
/* Bytes of one of those parts, without its checksum. */
size_t record_part_size(uint64_t body_size, uint32_t part);
static inline bool record_is_parted(uint64_t body_size)
{
    return body_size > RECORD_INLINE_MAX;
}

/* Size of the record's own value. A body longer than RECORD_INLINE_MAX is not in it. */
size_t record_size(const struct record *record);
/* Writes record_size bytes. `body` gives the bytes of an inline body; it is ignored if parted. */
void record_write(uint8_t *out, uint32_t queue, uint64_t seq, const struct record *record,
                  const struct iovec *body, size_t body_count);
/* Takes a value apart. On STATUS_DAMAGED or STATUS_VERSION *what says why. */
enum status record_read(const uint8_t *value, size_t len, uint32_t queue, uint64_t seq,
                        struct record *record, const char **what);
/* The same of one whose checksum is wrong: pointers stay inside the value, and that is all that is
 * promised. */
enum status record_guess(const uint8_t *value, size_t len, struct record *record,
                         const char **what);

/* Seals and checks a part: `value` is the checksum's place and then `len` bytes of body. */
void record_part_seal(uint8_t *value, size_t len, uint32_t queue, uint64_t seq, uint32_t part);
bool record_part_check(const uint8_t *value, size_t len, uint32_t queue, uint64_t seq,
                       uint32_t part);
