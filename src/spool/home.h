#pragma once

/* The directory that a spool lives in. */

#include "amqpbuf/status.h"

/* Makes it with mode 0700 if it is missing; refuses one that others may enter, or of another user,
 * and says what mends it. */
enum status home_prepare(const char *path, struct failure *);
/* Takes DIR/lock for this process: STATUS_IN_USE if another has it. Closing *fd gives it back; it
 * is -1 if the file could not be opened. */
enum status home_lock(int *fd, const char *path, struct failure *);
/* Syncs the directory and its parent, so that a power cut cannot take the files' names away. */
enum status home_sync(const char *path, struct failure *);
