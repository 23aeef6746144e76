#include "upstream/autotune.h"

#include "base/states.h"

#define SECOND UINT64_C(1000000000) /* ns */

/* Rounds of a near RabbitMQ take some milliseconds and vary: so many of them are one try. */
#define TRY_NS  (SECOND / 20)
#define REST_NS (10 * SECOND)

/* From here on a socket holds less for each round trip than one core sends. */
#define FAR_NS (SECOND / 50)

/* Less is nothing. Two tries of a RabbitMQ that is near differ by as much. */
#define GAIN_MIN_NEAR 1.2
#define GAIN_MIN_FAR  1.05
/* Of what the larger size could give at most: while it grows, and for growing once more. */
#define GAIN_FULL  0.75
#define GAIN_AGAIN 0.9
#define MARGIN     1.25

enum {
    FACTOR = 2,
    FACTOR_GROWING = 4, /* once it is known that more gives more */
    ROUNDS = 2,         /* of a try, once it has grown */
    FAR_SIZE = 4 * AUTOTUNE_MIN,
    STEPS_A_SECOND = 1000,
    STEP_MAX = 8192,
};

static const struct states states = {
    .object = "autotune",
    .names =
        {[AUTOTUNE_SMALLER] = "smaller", [AUTOTUNE_LARGER] = "larger", [AUTOTUNE_RESTS] = "rests"},
    .next = {[AUTOTUNE_SMALLER] = TO(AUTOTUNE_LARGER),
             [AUTOTUNE_LARGER] = TO(AUTOTUNE_RESTS),
             [AUTOTUNE_RESTS] = TO(AUTOTUNE_SMALLER)},
};

void autotune_init(struct autotune *a)
{
    *a = (struct autotune){
        .state = AUTOTUNE_SMALLER,
        .size = AUTOTUNE_MIN,
        .factor = FACTOR,
        .rounds = 1,
        .gain_full = GAIN_FULL,
    };
}

/* The size that is known to be of use. */
static uint32_t proven(const struct autotune *a)
{
    return a->state == AUTOTUNE_LARGER ? a->smaller : a->size;
}

void autotune_begin_as(struct autotune *a, const struct autotune *other)
{
    autotune_init(a);
    a->size = proven(other);
    a->shortest_ns = other->shortest_ns;
}

/* What is under way was sent with the old size, and what is sent now goes in one burst: while it is
 * small and grows that is no matter. */
static void resize(struct autotune *a, double size)
{
    uint32_t old = a->size;
    a->size = size > AUTOTUNE_MAX   ? AUTOTUNE_MAX
              : size < AUTOTUNE_MIN ? AUTOTUNE_MIN
                                    : (uint32_t)size;
    a->is_settling = a->size < old || a->gain_full == GAIN_AGAIN;
}

/* This size and what it gives are what the larger one is compared with. */
static void try_larger(struct autotune *a, double rate)
{
    a->smaller = a->size;
    a->smaller_rate = rate;
    resize(a, (double)a->size * a->factor);
    a->is_repeated = false;
    if (a->rounds == 1)
        a->factor = FACTOR_GROWING;
}

static void judge_larger(struct autotune *a, double rate, uint64_t now_ns)
{
    double gain = rate / a->smaller_rate, most = (double)a->size / a->smaller;
    bool is_full = gain >= most * a->gain_full;
    if (is_full && a->size < AUTOTUNE_MAX) {
        a->gain_full = GAIN_FULL;
        try_larger(a, rate);
        return;
    }
    if (!is_full && !a->is_repeated) {
        a->is_repeated = a->is_settling = true;
        return;
    }
    double gain_min = a->smaller == AUTOTUNE_MIN ? GAIN_MIN_NEAR : GAIN_MIN_FAR;
    double needed = gain < gain_min ? a->smaller : a->smaller * gain * MARGIN;
    if (needed < a->size)
        resize(a, needed);
    a->rests_until_ns = now_ns + REST_NS;
    STATE_MOVE(&states, a->state, AUTOTUNE_RESTS);
}

static void begin_again(struct autotune *a)
{
    a->shortest_ns = a->round_end_ns - a->round_begin_ns;
    resize(a, a->size / 2.0);
    a->factor = FACTOR;
    a->rounds = ROUNDS;
    a->gain_full = GAIN_AGAIN;
    STATE_MOVE(&states, a->state, AUTOTUNE_SMALLER);
}

static void judge(struct autotune *a, double rate, uint64_t now_ns)
{
    double a_step = rate / STEPS_A_SECOND;
    a->a_step = a_step < STEP_MAX ? (uint32_t)a_step : STEP_MAX;
    switch (a->state) {
    case AUTOTUNE_SMALLER:
        STATE_MOVE(&states, a->state, AUTOTUNE_LARGER);
        try_larger(a, rate);
        return;
    case AUTOTUNE_LARGER:
        judge_larger(a, rate, now_ns);
        return;
    case AUTOTUNE_RESTS:
        if (now_ns >= a->rests_until_ns)
            begin_again(a);
        return;
    }
}

bool autotune_is_far(const struct autotune *a)
{
    return proven(a) >= FAR_SIZE && a->shortest_ns >= FAR_NS;
}

void autotune_end_round(struct autotune *a, uint64_t now_ns)
{
    uint64_t took_ns = now_ns - a->round_begin_ns;
    a->round_end_ns = now_ns;
    a->settled_then = a->settled;
    if (a->shortest_ns == 0 || took_ns < a->shortest_ns)
        a->shortest_ns = took_ns;
}

/* Confirms may come in lumps, and the round ends within one: what came with it counts, if the
 * window was full again soon. */
static void count_round(struct autotune *a, uint64_t now_ns)
{
    uint64_t spent_ns = a->round_end_ns - a->round_begin_ns;
    bool at_once = now_ns - a->round_end_ns <= spent_ns / 8;
    a->spent_ns += at_once ? now_ns - a->round_begin_ns : spent_ns;
    a->gained += (at_once ? a->settled : a->settled_then) - a->settled_before;
}

/* True if the window is larger than it was. */
static bool finish_round(struct autotune *a, uint64_t now_ns)
{
    uint32_t window = autotune_window(a);
    if (a->is_settling) {
        a->is_settling = false;
        return false;
    }
    count_round(a, now_ns);
    if (++a->done < a->rounds || a->spent_ns < TRY_NS)
        return false;
    a->done = 0;
    double rate = (double)a->gained * (double)SECOND / (double)a->spent_ns;
    a->spent_ns = a->gained = 0;
    judge(a, rate, now_ns);
    return autotune_window(a) > window;
}

void autotune_begin_round(struct autotune *a, uint32_t under_way, uint64_t now_ns)
{
    bool has_grown = a->round_end_ns > 0 && finish_round(a, now_ns);
    a->round_end = a->round_end_ns = 0;
    if (has_grown)
        return; /* it is not full any more */
    a->round_end = a->settled + under_way;
    a->round_begin_ns = now_ns;
    a->settled_before = a->settled;
}
