#pragma once

/* Another process that reads an old state of the spool: what the spool has freed since cannot be
 * used again meanwhile. */

#include <stdint.h>

struct store_holder {
    int pid; /* 0: there is none */
    uint64_t bytes;
};
