#pragma once

/* The spool on disk, version 2. docs/spool-format.md has it byte by byte. */

#include <stdint.h>

#define SPOOL_FORMAT_VERSION 2

enum record_kind {
    RECORD_PUBLISH = 1, /* method, content header and body of a basic.publish */
    RECORD_DECLARE =
        2, /* method alone: exchange.declare, queue.declare, queue.bind, exchange.bind */
};

/* Why RabbitMQ refused a message. */
struct rejection {
    uint16_t code;     /* AMQP reply code; 312 for a return, 0 when RabbitMQ gave none (a nack) */
    const char *text;  /* reply text, not terminated */
    uint16_t text_len; /* bytes */
    uint64_t at_us;    /* when, microseconds since 1970 UTC */
};
