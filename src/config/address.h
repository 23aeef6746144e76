#pragma once

/* Which addresses are the same one, whatever way they are written. */

#include <stdbool.h>

/* Whether who listens at `address` takes what `other` listens at too: it is the same one, or
 * `address` stands for every address of that kind (of both, `::`). */
bool address_takes(const char *address, const char *other);
/* Whether a connection to `host` (a name or an address) comes out at who listens at `address`, as
 * far as that is known without asking: any address of the loopback's, and localhost, are here. */
bool address_leads_to(const char *host, const char *address);
