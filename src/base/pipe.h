#pragma once

#include <stdbool.h>

/* Whether there is a pipe at this path: it never opens, or it is empty when it is read again. */
bool pipe_is_at(const char *path);
