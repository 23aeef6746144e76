#pragma once

/* The disk under the spool: the system calls on its data.mdb and its checkpoint, which are files in
 * memory (tmpfs). It knows what would be left of them when the process is killed (all that was
 * written), and when the power is cut (what was synced, and any part of what was not). That there
 * is a file is never forgotten. */

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
/* The longest sync since then, and since when none of a checkpoint has succeeded after one failed;
 * 0: the last one did. */
uint64_t disk_longest_sync_us(void);
uint64_t disk_failing_since_us(void);
/* Called at each system call on the disk, before it happens. */
void disk_on_step(void (*step)(void));
