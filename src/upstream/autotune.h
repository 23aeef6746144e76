#pragma once

/* How many publishes to have under way when nobody has said it (pool.window, drain.window = auto).
 *
 * As many as RabbitMQ confirms in the time that one confirm takes while none waits for another
 * (Little's law): fewer leave it idle when it is far away, more only wait there, and would be
 * repeated if the connection were lost. Neither the rate nor the time is known. So two sizes are
 * tried, one after the other, and what each of them gives a second is compared. If the larger one
 * gives
 *
 *   as much more as it is larger   the next pair is tried, up from there
 *   somewhat more                  it becomes what that needs, and a quarter
 *   nothing                        the smaller one is enough
 *
 * and after ten seconds it begins again, at half of that. The first pair is 256 and 512: with a
 * RabbitMQ that is near, 512 gives no more than 256, which is the least.
 *
 * A size is tried for some rounds, the larger one twice if it disappoints. A round begins when the
 * window is full, and is over when as many are answered as were under way then. A slow publisher
 * fills no window, and of it nothing is learned.
 *
 * Beside that the window holds what RabbitMQ confirms in a millisecond, or small messages would
 * cost a wake-up for a few of them.
 *
 * Decisions only: the caller has the messages, and the clock. */

#include <stdbool.h>
#include <stdint.h>

enum {
    AUTOTUNE_MIN = 256,
    AUTOTUNE_MAX = 1 << 20, /* what they cost in memory is pool.window_bytes' to bound */
};

enum autotune_state {
    AUTOTUNE_SMALLER, /* of a pair is tried */
    AUTOTUNE_LARGER,
    AUTOTUNE_RESTS,
};

struct autotune {
    enum autotune_state state;
    uint32_t size;    /* publishes */
    uint32_t a_step;  /* the least that is confirmed in one piece: see above; publishes */
    uint32_t factor;  /* the larger one of the next pair is so many times the smaller one */
    double gain_full; /* if the larger one gives this share of what it could, it was full */
    bool
        is_repeated; /* the larger one has disappointed once: the way there had to get used to it */
    bool is_settling; /* the next round shows nothing */
    uint64_t settled; /* publishes, since the start */

    uint64_t round_end; /* when so many are settled; 0: there is no round */
    uint64_t round_begin_ns, settled_before;
    uint64_t round_end_ns, settled_then; /* 0: the round goes on */
    uint32_t done, rounds;               /* of this try, and the least of one */
    uint64_t spent_ns, gained; /* in all rounds of this try: time, and publishes settled */
    uint64_t shortest_ns;      /* round since it last began again; 0: there was none */

    uint32_t smaller;    /* the size that was tried first */
    double smaller_rate; /* publishes a second */
    uint64_t rests_until_ns;
};

void autotune_init(struct autotune *);
/* Of another connection to the same RabbitMQ: begins with the size that was found for `other`. */
void autotune_begin_as(struct autotune *, const struct autotune *other);
/* How many publishes may be under way. */
static inline uint32_t autotune_window(const struct autotune *a)
{
    return a->size > a->a_step ? a->size : a->a_step;
}
/* True if RabbitMQ is far away: more under way gives more than the least does, and a confirm takes
 * as long as a long distance, however quickly others come. That is found out anew each time that it
 * begins again: what a closed channel leaves is answered at once, wherever RabbitMQ is. */
bool autotune_is_far(const struct autotune *);
/* So many more are answered, whatever the answer. True if autotune_end_round is due. */
static inline bool autotune_settled(struct autotune *a, uint32_t count)
{
    a->settled += count;
    return a->settled >= a->round_end && a->round_end > 0 && a->round_end_ns == 0;
}
/* The window is full. True if autotune_begin_round is due. */
static inline bool autotune_full(const struct autotune *a)
{
    return a->settled >= a->round_end;
}
/* All that was under way is answered, now by a clock that never goes back, in ns. */
void autotune_end_round(struct autotune *, uint64_t now_ns);
/* So many are under way. The size may change. */
void autotune_begin_round(struct autotune *, uint32_t under_way, uint64_t now_ns);
