#pragma once

/* Before this process opens the environment in `path`, another one takes LMDB's locks in its place
 * and evicts the readers that died, those with this process's own number as well: in a container
 * each run may be process 1, and LMDB holds a reader with the number of who asks to be alive.
 *
 * For whoever holds the spool's lock and has not opened it. Waits while somebody else holds one of
 * LMDB's locks, and says so in the log. */
void trial_run(const char *path);
