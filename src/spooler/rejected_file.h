#pragma once

/* DIR/rejected.jsonl: rejected messages that have left the spool, a line each as
 * `amqpbuf-inspect dump` writes them. It is opened anew each time, so that it can be renamed. */

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "amqpbuf/status.h"

#define REJECTED_FILE_NAME "rejected.jsonl"

struct rejected_file {
    FILE *file;  /* NULL: not open */
    off_t begin; /* its size before the first line that was added */
    bool made;   /* it was not there: its name has to be synced, too */
    const char *directory;
};

/* Made with mode 0600 if it is missing; never a link. `directory` must live as long. */
enum status rejected_file_open(struct rejected_file *, const char *directory, struct failure *);
/* Adds bytes of a line; what fails is told by rejected_file_sync. */
bool rejected_file_write(void *rejected_file, const void *bytes, size_t len);
/* What was added is on disk. */
enum status rejected_file_sync(struct rejected_file *, struct failure *);
/* Takes back what was added since it was opened. */
void rejected_file_undo(struct rejected_file *);
void rejected_file_close(struct rejected_file *);
