#pragma once

#include <stdbool.h>

/* Whether a page of another site cannot be who asks: `field` is the Host of a request (RFC 9110,
 * 7.2), NULL: it has none. A browser names the site that it believes to speak to, and whoever owns
 * a name in DNS can let it lead to this address once his page is loaded. Nobody owns an address,
 * or a name without a dot; `hosts` (config/hosts.h) are the operator's own. */
bool host_is_ours(const char *field, const char *hosts);
