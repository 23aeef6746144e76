#pragma once

/* The disk under the spool: the system calls on its data.mdb, which is a file in memory (tmpfs). It
 * knows what would be left of it when the process is killed (all that was written), and when the
 * power is cut (what was synced, and any part of what was not). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct disk_faults {
    bool is_full;           /* nothing can be written beyond what was claimed or written before */
    bool writes_fail;       /* EIO */
    unsigned syncs_to_fail; /* the next so many: EIO, and the kernel drops what it had to write */
    uint64_t sync_us;       /* most that a sync takes */
};
extern struct disk_faults disk_faults;

/* An empty disk; `directory` is the spool's. */
void disk_begin(const char *directory, uint64_t seed);
void disk_end(void);
/* The process that writes ends now: what it writes from here on does not count. */
void disk_freeze(bool power_cut);
/* What was frozen is on the disk again. */
void disk_thaw(void);
/* Something has failed since the process began. */
bool disk_was_broken(void);
/* Called at each system call on the disk, before it happens. */
void disk_on_step(void (*step)(void));
