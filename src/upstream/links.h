#pragma once

/* The channels of one connection to RabbitMQ by number: which are taken, and which serve nobody and
 * stay open for the next that needs one. The last free number is kept for a drain. */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

struct frame;
struct link;
struct slab;
struct upstream;

struct link_handler {
    /* The frame lies in `slab`; the handler refs what it keeps. */
    void (*on_frame)(struct link *, struct slab *slab, const struct frame *);
    /* The upstream is gone; the handler must let go of the link. */
    void (*on_lost)(struct link *);
};

/* One channel of an upstream; embedded in what uses it. */
struct link {
    struct upstream *upstream; /* NULL: not attached */
    uint16_t channel;
    bool leaves_one;       /* the last free number is not for it, but for a drain */
    struct list idle_node; /* in links->idle */
    const struct link_handler *handler;
};

struct links {
    uint16_t max;            /* highest number */
    struct link **by_number; /* NULL: none was taken yet */
    uint32_t capacity, count;
    uint32_t taking_all; /* of them, those that do not leave one */
    struct list idle;
    uint32_t idle_count;
};

void links_init(struct links *);
/* All must be out. */
void links_deinit(struct links *);
/* True if a link finds a number. With one number in all nothing is left for a drain. */
bool links_have_room(const struct links *, bool leaves_one);
/* Gives it the lowest free number; false if there is none. */
bool links_add(struct links *, struct link *);
void links_remove(struct links *, struct link *);
/* The number of the first, which is removed, is the second's from now on. */
void links_hand_over(struct links *, struct link *from, struct link *to);
/* NULL: the number is free. */
struct link *links_find(const struct links *, uint16_t number);
/* The next one from number *at on, which moves behind it; NULL at the end. Begin with 0. Links may
 * be removed meanwhile. */
struct link *links_next(const struct links *, uint32_t *at);

/* It serves nobody, and stays open for the next that needs one. */
void links_keep_idle(struct links *, struct link *);
bool link_is_idle(const struct link *);
/* NULL if none is idle. */
struct link *links_take_idle(struct links *);
/* None of them serves anybody. */
bool links_are_idle(const struct links *);
