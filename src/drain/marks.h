#pragma once

/* What RabbitMQ has got to on a drain's channel: it answers the methods of a channel in order, and
 * what it has not confirmed says nothing. So behind the first publish to each destination a method
 * is sent (a mark), once a channel was stuck, and nothing more before that is answered: so it is
 * known at which another one is stuck, and no other message has a part in it. Each costs a round
 * trip. So the more of them have been answered on a channel, the more is sent behind one. */

#include <stdbool.h>
#include <stdint.h>

#include "base/number_map.h"

struct mark {
    uint64_t tag;  /* of the publish before it */
    bool is_first; /* to its destination, and so is none between this mark and the one before */
};

struct marks {
    struct mark *all; /* those from `first` on are not answered */
    uint32_t first, end, capacity;
    uint32_t fine;           /* first ones that were answered */
    struct number_map known; /* destinations that this channel has carried something for */
};

/* A new channel. */
void marks_begin(struct marks *);
/* Frees. */
void marks_clear(struct marks *);
/* True if the channel carries something for this destination for the first time, or may. */
bool marks_is_new(struct marks *, uint64_t destination);
/* A method goes out, behind the publish with this tag. */
void marks_add(struct marks *, uint64_t tag, bool is_first);
/* RabbitMQ has answered one: the tag before it, 0 if none was out. */
uint64_t marks_answered(struct marks *);
/* The tag of the publish that RabbitMQ is at if it is stuck; 0: it is not known. */
uint64_t marks_stuck_at(const struct marks *);
/* True if nothing more is to be sent until one is answered. */
bool marks_hold(const struct marks *, uint64_t last_tag);
