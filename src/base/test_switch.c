#include "base/test_switch.h"

#ifdef AMQPBUF_CRASH_POINTS

#include <stdlib.h>

bool test_switch(const char *variable)
{
    const char *value = getenv(variable);
    return value && *value;
}

uint64_t test_number(const char *variable, uint64_t own)
{
    const char *value = getenv(variable);
    return value ? strtoull(value, NULL, 10) : own;
}
#endif
