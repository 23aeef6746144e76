#pragma once

/* Assertions that stay in release builds: a broken invariant stops the process before it can
 * damage the spool. Never used for what a peer, a file or a user can cause. */

#include <stdio.h>
#include <stdlib.h>

#define ENSURE(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: invariant broken: %s\n", __FILE__, __LINE__, #condition);      \
            abort();                                                                               \
        }                                                                                          \
    } while (0)
