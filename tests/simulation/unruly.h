#pragma once

/* What a client says that does not keep to the protocol. */

#include <stdint.h>

#include "prng.h"
#include "talker.h"

/* Something on this channel, of which `frame_max` was agreed on. Returns its name. */
const char *unruly_say(struct talker *, struct prng *, uint16_t channel, uint32_t frame_max);
