#pragma once

/* What the proxy knows of methods, beside how they look (method.h): one row a method. */

#include <stdbool.h>

#include "amqp/method.h"

enum rule {
    RULE_TIDY = 1,         /* leaves nothing on the connection that it was sent on */
    RULE_KEPT = 2,         /* a declaration: can wait in the spool, in its place among publishes */
    RULE_DONE = 4,         /* RabbitMQ's answer to one of these */
    RULE_HERE = 8,         /* can be answered in RabbitMQ's place while it is away */
    RULE_TRANSACTION = 16, /* of tx */
    RULE_CONSUMES = 32,    /* its client gets messages by it */
    RULE_TAKES = 64,       /* takes messages away, or ways for them */
    RULE_ENDS = 128,       /* a transaction */
};

/* A method has some rules; one that is not in the table has none. */
bool rule_has(amqp_method_number_t, enum rule);

/* A queue or an exchange that a method names. Its kind is the number of the method that declares
 * it. */
struct rule_name {
    amqp_method_number_t kind;
    amqp_bytes_t name;
};
enum { RULE_NAMES_MAX = 2 };
/* Those that have to be there for the method to succeed; returns how many. */
unsigned rule_names(amqp_method_number_t, const void *decoded, struct rule_name[RULE_NAMES_MAX]);

/* The field that names a queue, and may be empty for the channel's last declared one (AMQP 0-9-1,
 * domain queue-name); NULL if there is none. */
amqp_bytes_t *rule_default_queue(amqp_method_number_t, void *decoded);
/* The key of a binding, which means the queue's name if both are left empty; NULL if it has none.
 */
amqp_bytes_t *rule_default_key(amqp_method_number_t, void *decoded);
/* It asks whether something is there, and declares nothing. */
bool rule_is_passive(amqp_method_number_t, const void *decoded);
/* The field that says that no answer is wanted; NULL if it has none. */
amqp_boolean_t *rule_nowait(amqp_method_number_t, void *decoded);
