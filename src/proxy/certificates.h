#pragma once

/* TLS for clients and towards RabbitMQ, as the configuration says. */

#include <stdbool.h>
#include <stdio.h>

struct config;
struct proxy;

/* Are the files there, and do they belong together? If not, says so in `errors`. */
bool certificates_check(const struct config *, FILE *errors);

/* Reads the files that are needed: at the start and on SIGHUP. False, after a line in the log, if
 * one cannot be used; then what was read before stays in use. Open connections keep theirs. */
bool certificates_load(struct proxy *);
void certificates_free(struct proxy *);
