#pragma once

#include <stdbool.h>

/* Whether there is a pipe or a terminal at this path (any device but /dev/null): it never opens, it
 * is empty when it is read again, or somebody would have to type. */
bool pipe_is_at(const char *path);
