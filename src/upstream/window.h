#pragma once

/* What is sent on an upstream and not yet confirmed, shared out among destinations. A queue
 * behind a destination (amqp/destination.h) may never confirm (a quorum queue without
 * its majority), and then only those who publish to it may have to wait.
 *
 * The first `size` are anybody's. As many again are kept for those who come later, each of whom
 * finds an eighth of what the others have left of it, and at least one. With a size of 1 it is one
 * in all. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/number_map.h"

struct window {
    struct number_map shares; /* of each destination, how many are under way there */
    uint32_t under_way;       /* of all of them */
};

/* True if one more publish may be sent there. */
bool window_has_room(const struct window *, uint64_t destination, uint32_t size);
/* How many publishes are under way there. */
uint32_t window_share(const struct window *, uint64_t destination);
/* So many more are sent there, or are answered. */
void window_take(struct window *, uint64_t destination, uint32_t count);
void window_give_back(struct window *, uint64_t destination, uint32_t count);
void window_clear(struct window *);
