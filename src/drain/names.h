#pragma once

/* The queues and exchanges that clients have named, by kind and name. A kind is the number of the
 * method that declares it. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "drain/declared.h"

enum { NAMES_MAX = 65536 }; /* 1 MiB */

struct names {
    struct declared seen;     /* they exist, or will */
    struct declared promised; /* of those: RabbitMQ may have them only once a drain gets there */
};

void names_clear(struct names *);
/* Its hash; never 0. */
uint64_t names_hash(uint32_t kind, const uint8_t *name, size_t len);
/* The hash of what a method payload declares; 0: neither a queue nor an exchange. */
uint64_t names_of_declaration(const uint8_t *payload, size_t len);
/* It was declared here, or RabbitMQ has answered for it: a passive declaration in an outage may be
 * told that it exists. */
void names_note_seen(struct names *, uint64_t name);
/* RabbitMQ has deleted it, or does not know it. */
void names_note_gone(struct names *, uint64_t name);
/* The same of the one that the text of a 404 names; as of rabbit_misc:not_found. One whose node is
 * away is there, and RabbitMQ has other words for it. */
void names_note_missing(struct names *, const char *text, const char *vhost);
bool names_has_seen(const struct names *, uint32_t kind, const uint8_t *name, size_t len);
/* The same, and RabbitMQ has it already. */
bool names_is_sure(const struct names *, uint32_t kind, const uint8_t *name, size_t len);
/* It was declared here while RabbitMQ was away, and waits in the spool. A `transient` one may be
 * gone although it was seen before. */
void names_promise(struct names *, uint32_t kind, const uint8_t *name, size_t len, bool transient);
bool names_is_promised(const struct names *, uint32_t kind, const uint8_t *name, size_t len);
/* True if it was promised, and is no longer. */
bool names_end_promise(struct names *, uint64_t name);
void names_forget_promises(struct names *);
