#include "base/test_switch.h"

#ifdef AMQPBUF_CRASH_POINTS

#include <stdlib.h>

bool test_switch(const char *variable)
{
    const char *value = getenv(variable);
    return value && *value;
}

#endif
