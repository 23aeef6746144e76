#include "base/crash_point.h"

#ifdef AMQPBUF_CRASH_POINTS

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* True if the variable names this place, and this is the time that it names. */
static bool is_at(const char *variable, const char *name, _Atomic long *hits)
{
    const char *at = getenv(variable);
    size_t len = strlen(name);
    return at && strncmp(at, name, len) == 0 && at[len] == ':' &&
           ++*hits == strtol(at + len + 1, NULL, 10);
}

void crash_point(const char *name)
{
    static _Atomic long crash_hits, stop_hits;
    if (is_at("AMQPBUF_TEST_CRASH_AT", name, &crash_hits))
        kill(getpid(), SIGKILL);
    if (is_at("AMQPBUF_TEST_STOP_AT", name, &stop_hits))
        kill(getpid(), SIGSTOP);
}

#endif
