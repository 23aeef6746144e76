#pragma once

/* The messages of a spool whose tree of pages is damaged: each page of data.mdb is looked at by
 * itself, without LMDB, and what is on it is believed by its own checksum. For amqpbuf-inspect; no
 * amqpbuf may run on the spool meanwhile. */

#include <stdbool.h>
#include <stdint.h>

#include "amqpbuf/spool_reader.h"
#include "amqpbuf/status.h"

struct salvage;

struct salvage_queue {
    uint32_t id;
    const char *user, *vhost; /* empty if its entry was not found, or whose it is is lost */
    bool is_counted;          /* its entry says how many there were */
    uint64_t messages, rejected;
};

/* Reads all of data.mdb once. STATUS_NO_SPOOL if there is none in the directory, STATUS_IN_USE
 * while an amqpbuf has the spool. Memory: 32 bytes a message and a part of one. */
enum status salvage_open(struct salvage **, const char *path, struct failure *);
void salvage_close(struct salvage *);

/* False: LMDB's list of free pages could not be read. Then messages that were deleted are among
 * those that are found, as long as nothing was written over them. */
bool salvage_knows_what_is_free(const struct salvage *);
/* Pages that the disk could not read. */
uint64_t salvage_unreadable_pages(const struct salvage *);

/* By queue and number, waiting and rejected ones, each once, with bodies. `damage` is NULL if the
 * message is whole; else it says what is not, and what of the message cannot be read is zeros.
 * False stops. What nothing can be said of but its number goes to `lost`. */
struct salvage_visitor {
    bool (*visit)(void *arg, const struct salvage_queue *, const struct reader_record *,
                  const char *damage);
    void (*lost)(void *arg, const struct salvage_queue *, uint64_t seq, const char *what);
    /* Behind the last one of each queue, if none of the visits was false. */
    void (*end)(void *arg, const struct salvage_queue *);
};
void salvage_records(struct salvage *, const struct salvage_visitor *, void *arg);
