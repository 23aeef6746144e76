#pragma once

/* TLS for clients and towards RabbitMQ, as the configuration says. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct config;
struct tls_context;
struct upstreams;

enum { CERTIFICATES_WHY_MAX = 1200 };

struct certificates {
    struct tls_context *clients, *upstreams; /* NULL: not used */
    uint64_t looked_ms;                      /* when it was last seen whose time it is not */
};

/* Are the files there, and do they belong together? If not, says so in `errors`; a certificate
 * whose time it is not is a warning there. */
bool certificates_check(const struct config *, FILE *errors);

/* Reads all the files that the configuration needs. If one cannot be used it gives none, and false,
 * with a sentence for each of these in `why`. */
bool certificates_read(struct certificates *, const struct config *, char *why, size_t why_size);
void certificates_free(struct certificates *);
/* From now on new connections of clients (`used`) and to RabbitMQ use what was read, which is taken
 * over. Open ones keep theirs. Logs a certificate whose time it is not: whoever refuses it may not
 * say why. */
void certificates_adopt(struct certificates *used, struct certificates *read, const struct config *,
                        struct upstreams *);
/* To be called again and again: logs the same once an hour, of one that expires in use. */
void certificates_tick(struct certificates *, const struct config *, uint64_t now_ms);
