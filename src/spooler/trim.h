#pragma once

/* Keeps a queue's rejected list within its bound: the oldest leave the spool, for a file or for
 * good. */

#include "spooler/work.h"

/* Does a JOB_TRIM in a transaction of its own, all or nothing; the store is open. A process that is
 * killed between the file and the commit leaves a line of what is still in the spool: its line may
 * come twice, none is missing. */
enum status trim_run(struct work *, struct job *, struct failure *);
