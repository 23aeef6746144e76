#pragma once

/* Whether data.mdb and lock.mdb in the spool's directory are still the files that are open.
 * Somebody may remove or replace one beside a running amqpbuf, or move the directory. */

#include <sys/types.h>

struct place_file {
    dev_t device;
    ino_t inode;
};

struct place {
    struct place_file data, lock;
};

enum place_change {
    PLACE_AS_IT_WAS,
    PLACE_LOCK_GONE, /* what other processes read is not seen, nor do they see who writes */
    PLACE_DATA_GONE, /* what is stored would be gone with this process */
};

/* The files as they are now: LMDB has just opened them. */
void place_note(struct place *, const char *path);
enum place_change place_look(const struct place *, const char *path);
