#pragma once

/* Where the spool is, for the tools beside the proxy. */

#include <stdio.h>

/* AMQPBUF_SPOOL_PATH, then spool.path of `file` (NULL: /etc/amqpbuf/proxy.ini), then ./spool. What
 * else the file says does not matter here; that it may not be read is written to `errors`. The
 * caller frees it. */
char *spool_path_find(const char *file, FILE *errors);
