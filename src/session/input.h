#pragma once

/* What a client sends on a channel, frame by frame. */

#include <stdbool.h>

#include "amqp/frame.h"
#include "base/slab.h"

struct channel;

/* Takes one frame; false: it has to wait, the client is held. */
bool input_frame(struct channel *, struct slab *, const struct frame *);
/* The same for a client that was told to leave: only its publishes matter. */
bool input_leaving_frame(struct channel *, struct slab *, const struct frame *);
/* Routes the complete publish in channel->content; false: it has to wait, the client is held. */
bool input_retry(struct channel *);
