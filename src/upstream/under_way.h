#pragma once

/* The publishes that are sent on an upstream and not yet confirmed, whoever they are from: how
 * many, where to (window.h), and how many more may follow (pool.window, pool.window_bytes). */

#include <stdbool.h>
#include <stdint.h>

#include "upstream/autotune.h"
#include "upstream/window.h"

struct config;

struct under_way {
    struct window window;
    uint64_t bytes;
    uint32_t senders; /* relays that have something under way */
    struct autotune tuned;
};

void under_way_init(struct under_way *);
/* To the same RabbitMQ as `other`: begins with the size that is known to be good there. */
void under_way_begin_as(struct under_way *, const struct under_way *other);
void under_way_deinit(struct under_way *);
/* True if one more publish of so many bytes may be sent there. One always fits when nothing at all
 * is under way, whatever its size; an eighth of pool.window_bytes is kept for destinations to which
 * nothing is. */
bool under_way_has_room(const struct under_way *, const struct config *, uint64_t destination,
                        uint64_t bytes);
/* How many more publishes to a destination where something is under way may be sent, while it is no
 * question of shares, and how many bytes. */
uint32_t under_way_room(const struct under_way *, const struct config *, uint64_t *bytes);
/* True if another upstream should take a part of it. */
bool under_way_is_busy(const struct under_way *, const struct config *);
/* True if RabbitMQ is so far away, for what is sent there, that a connection may be full of what is
 * on its way. Nothing is known of it where pool.window is a number. */
bool under_way_is_far(const struct under_way *, const struct config *);
/* Somebody has to wait for room. */
void under_way_is_full(struct under_way *);
/* So many publishes of so many bytes together are sent, or are answered. */
void under_way_add(struct under_way *, uint64_t destination, uint32_t count, uint64_t bytes);
void under_way_remove(struct under_way *, uint64_t destination, uint32_t count, uint64_t bytes);
