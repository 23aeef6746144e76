#include "base/crash_point.h"

#ifdef AMQPBUF_CRASH_POINTS

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void crash_point(const char *name)
{
    static _Atomic long hits;
    const char *at = getenv("AMQPBUF_TEST_CRASH_AT");
    size_t len = strlen(name);
    if (!at || strncmp(at, name, len) != 0 || at[len] != ':')
        return;
    if (++hits == strtol(at + len + 1, NULL, 10))
        kill(getpid(), SIGKILL);
}

#endif
