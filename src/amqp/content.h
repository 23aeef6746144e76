#pragma once

/* Collects a method with its content (message.h) from the frames of one channel. */

#include <stdbool.h>
#include <stdint.h>

#include "amqp/frame.h"
#include "amqp/message.h"

enum content_state { CONTENT_IDLE, CONTENT_HEADER, CONTENT_BODY };

struct content {
    enum content_state state;
    struct message message;
    uint64_t body_missing;  /* bytes */
    struct slab *gathering; /* its own, for small body frames; NULL: none */
};

enum content_result {
    CONTENT_MORE,     /* taken; the message is not complete yet */
    CONTENT_COMPLETE, /* content->message is whole; move it out, then the state is idle again */
    CONTENT_UNEXPECTED_FRAME, /* 505: no content frame belongs here, or another was expected */
    CONTENT_BODY_TOO_LONG,    /* 505: more body than the header said */
    CONTENT_WRONG_CLASS,      /* 505: header of another class than basic, or weight not 0 */
    CONTENT_MALFORMED,        /* 502: property list or table malformed */
    CONTENT_TOO_LARGE,        /* body over max_body_size: the caller's 311 or 406 */
    CONTENT_NO_MEMORY,
};

void content_init(struct content *);
void content_deinit(struct content *);
/* Starts a message with its method frame. Only in CONTENT_IDLE, with the last message moved out. */
void content_begin(struct content *, struct slab *, const struct frame *);
/* Takes a header or body frame. On an error the content is back in CONTENT_IDLE. A message of body
 * size 0 is complete with its header. Small frames of a body of several are copied together, so
 * that a peer cannot make the proxy keep a span for every byte, nor for each of them a slab in
 * which others' bytes were read as well. */
enum content_result content_feed(struct content *, struct slab *, const struct frame *,
                                 uint64_t max_body_size);

/* Checks a content header payload (section 4.2.6.1): class 60, weight 0, a property list in which
 * every field and table is well formed as RabbitMQ reads it, and nothing left over. The two lowest
 * property flags must be 0: RabbitMQ ignores them, other readers take bit 0 for more flags.
 * CONTENT_MORE if all is well, and then *body_size is set; else CONTENT_WRONG_CLASS or
 * CONTENT_MALFORMED. */
enum content_result header_check(const uint8_t *payload, size_t len, uint64_t *body_size);
