#pragma once

/* Takes records out of the spool: those that RabbitMQ has taken are deleted, those that it will not
 * have become rejected ones. Both are jobs of the spooler, which may outlive the drain; what is
 * counted is counted when they are done. */

#include <stdint.h>

struct drain;
struct sent;

/* RabbitMQ has these. The entries must be CONFIRMED. */
void removal_delete(struct drain *, const uint64_t *seqs, uint32_t count);
/* RabbitMQ's reply code and text, 0: nacked. The entry must be CONFIRMED. */
void removal_reject(struct drain *, struct sent *, uint16_t code, const char *text);
/* Takes out once more what could not be taken out. */
void removal_retry(struct drain *);
