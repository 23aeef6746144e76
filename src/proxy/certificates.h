#pragma once

/* TLS for clients and towards RabbitMQ, as the configuration says. */

#include <stdbool.h>

struct proxy;

/* Reads the files that are needed: at the start and on SIGHUP. False, after a line in the log, if
 * one cannot be used; then what was read before stays in use. Open connections keep theirs. */
bool certificates_load(struct proxy *);
void certificates_free(struct proxy *);
