#pragma once

/* Whether data.mdb, lock.mdb and, if it is kept, checkpoint in the spool's directory are still the
 * files that are open. Somebody may remove or replace one beside a running amqpbuf, or move the
 * directory. */

#include <sys/types.h>

struct place_file {
    dev_t device;
    ino_t inode;
};

struct place {
    struct place_file data, lock;
    struct place_file checkpoint; /* zeros: none is kept */
};

enum place_change {
    PLACE_AS_IT_WAS,
    PLACE_LOCK_GONE,       /* what other processes read is not seen, nor do they see who writes */
    PLACE_CHECKPOINT_GONE, /* a power cut could take the spool */
    PLACE_DATA_GONE,       /* what is stored would be gone with this process */
};

/* The files as they are now: they have just been opened. */
void place_note(struct place *, const char *path);
void place_note_checkpoint(struct place *, const char *path);
enum place_change place_look(const struct place *, const char *path);
