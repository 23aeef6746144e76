#include "amqpbuf/status.h"

#include <stdarg.h>
#include <stdio.h>

const char *status_text(enum status status)
{
    switch (status) {
#define X(name, text)                                                                              \
    case name:                                                                                     \
        return text;
        AMQPBUF_STATUS(X)
#undef X
    }
    return "unknown status";
}

enum status failure_set(struct failure *failure, enum status status, const char *format, ...)
{
    if (failure) {
        va_list args;
        va_start(args, format);
        failure->status = status;
        vsnprintf(failure->text, sizeof failure->text, format, args);
        va_end(args);
    }
    return status;
}
