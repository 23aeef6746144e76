#pragma once

/* /queues: what `amqpbuf-inspect summary --json` says, and what only the running proxy knows. */

#include <stddef.h>

#include "proxy/snapshot.h"

/* JSON; the caller frees it. docs/man/amqpbuf.8 lists the keys. */
char *queues_json(const struct snapshot *, size_t *len);
