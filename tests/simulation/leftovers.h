#pragma once

/* What is still held for nobody: places, numbers, memory, descriptors, readers. */

struct proxy;

/* In words, of a proxy whose clients have all gone and that has nothing to do; NULL: nothing is. */
const char *leftovers_in(const struct proxy *);
/* How many this process has open. */
unsigned leftovers_descriptors(void);
