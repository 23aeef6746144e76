#pragma once

/* The directory that a spool lives in. */

#include <stdbool.h>

#include "amqpbuf/status.h"

/* Makes it with mode 0700 if it is missing; refuses one that others may enter, or of another user,
 * and says what mends it. */
enum status home_prepare(const char *path, struct failure *);
/* What keeps a second amqpbuf away: flock(2) on the directory itself, whose name nobody can remove
 * while the spool is in it, and on DIR/lock, which version 0.1.0 looks at. -1: not open. */
struct home_lock {
    int directory, file;
};
#define HOME_LOCK_NONE ((struct home_lock){-1, -1})
/* Takes both: STATUS_IN_USE if another process has one of them. Whatever it says, home_unlock. */
enum status home_lock(struct home_lock *, const char *path, struct failure *);
void home_unlock(struct home_lock *);
/* True if a process has the directory's. */
bool home_is_locked(const char *path);
/* Syncs the directory and its parent, so that a power cut cannot take the files' names away. */
enum status home_sync(const char *path, struct failure *);
/* Syncs the directory that the file is in. */
enum status home_sync_parent(const char *file, struct failure *);
