#pragma once

/* admin.hosts: by which names a server may be asked. Several are separated by commas. `.example`
 * stands for the name example and all below it, `*` for any. */

#include <stdbool.h>
#include <stddef.h>

bool hosts_are_valid(const char *hosts);
/* Whether this name, of `len` bytes and in any case, is one of valid ones. */
bool hosts_have(const char *hosts, const char *name, size_t len);
