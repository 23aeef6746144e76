/* How many publishes to have under way, against models of a broker with a clock of their own. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "upstream/autotune.h"

#define US     UINT64_C(1000)
#define MS     (1000 * US)
#define SECOND (1000 * MS)

/* A broker: what reaches it is taken one after the other, and confirmed. */
struct broker {
    uint64_t distance_ns; /* there and back */
    uint64_t each_ns;     /* to take one */
    uint64_t lump_ns;     /* confirms go out at multiples of this; 0: at once */
    unsigned noise;       /* percent that each_ns varies by, slowly */
};

/* A publisher: always has something to send, or `burst` each `pause_ns`. */
struct run {
    struct broker broker;
    uint64_t burst, pause_ns;
    struct autotune tuned;
    uint64_t now_ns, busy_until_ns;
    uint64_t *due_ns; /* of those under way, a ring */
    uint32_t first, under_way, peak;
    uint64_t confirmed, sent;
    uint32_t smallest, largest; /* sizes that it has settled for, since run_forget */
};

enum { RING = 1 << 21 };

static void run_begin(struct run *r)
{
    autotune_init(&r->tuned);
    r->due_ns = calloc(RING, sizeof *r->due_ns);
    r->now_ns = SECOND;
    r->sent = r->burst > 0 ? r->burst * (r->now_ns / r->pause_ns) : 0;
    srandom(1);
}

static void run_forget(struct run *r)
{
    r->smallest = UINT32_MAX;
    r->largest = 0;
    r->confirmed = 0;
    r->peak = 0;
}

static void send_one(struct run *r)
{
    const struct broker *b = &r->broker;
    static uint64_t wobble = 100;
    if (b->noise > 0 && r->sent % 512 == 0)
        wobble = 100 - b->noise + (uint64_t)random() % (2 * b->noise + 1);
    uint64_t there_ns = r->now_ns + b->distance_ns / 2;
    if (r->busy_until_ns < there_ns)
        r->busy_until_ns = there_ns;
    r->busy_until_ns += b->each_ns * (b->noise > 0 ? wobble : 100) / 100;
    uint64_t done_ns = r->busy_until_ns;
    if (b->lump_ns > 0)
        done_ns = (done_ns / b->lump_ns + 1) * b->lump_ns;
    r->due_ns[(r->first + r->under_way++) % RING] = done_ns + b->distance_ns / 2;
    r->sent++;
    if (r->under_way > r->peak)
        r->peak = r->under_way;
}

static bool has_something(const struct run *r)
{
    return r->burst == 0 || r->sent < r->burst * (r->now_ns / r->pause_ns);
}

static void note_size(struct run *r)
{
    if (r->tuned.state != AUTOTUNE_RESTS)
        return;
    if (r->tuned.size < r->smallest)
        r->smallest = r->tuned.size;
    if (r->tuned.size > r->largest)
        r->largest = r->tuned.size;
}

static void run_for(struct run *r, uint64_t ns)
{
    uint64_t end_ns = r->now_ns + ns;
    while (r->now_ns < end_ns) {
        while (has_something(r) && r->under_way < autotune_window(&r->tuned))
            send_one(r);
        if (has_something(r) && autotune_full(&r->tuned))
            autotune_begin_round(&r->tuned, r->under_way, r->now_ns);
        if (r->under_way == 0) {
            r->now_ns = (r->now_ns / r->pause_ns + 1) * r->pause_ns;
            continue;
        }
        r->now_ns = r->due_ns[r->first];
        r->first = (r->first + 1) % RING;
        r->under_way--;
        r->confirmed++;
        if (autotune_settled(&r->tuned, 1))
            autotune_end_round(&r->tuned, r->now_ns);
        note_size(r);
    }
}

static void run_end(struct run *r)
{
    free(r->due_ns);
}

/* What the broker would take in a second from one who sends without end, in percent. */
static unsigned share(const struct run *r, uint64_t ns)
{
    return (unsigned)(r->confirmed * r->broker.each_ns * 100 / ns);
}

static void test_near_it_stays_as_it_begins(void **state)
{
    (void)state;
    for (unsigned noise = 0; noise <= 30; noise += 10) {
        struct run r = {.broker = {.distance_ns = 200 * US, .each_ns = 40 * US, .noise = noise}};
        run_begin(&r);
        run_forget(&r);
        run_for(&r, 120 * SECOND);
        assert_int_equal(r.smallest, 256);
        assert_in_range(r.largest, 256, 512);
        assert_in_range(r.peak, 256, 512);
        assert_in_range(share(&r, 120 * SECOND), 97, 103);
        assert_false(autotune_is_far(&r.tuned));
        run_end(&r);
    }
}

/* All that the distance needs, soon, and not much more; then it stays within a factor of two. */
static void test_far(void **state)
{
    (void)state;
    const uint64_t distances[] = {10 * MS, 50 * MS, 200 * MS}, each[] = {4 * US, 20 * US, 100 * US};
    for (unsigned d = 0; d < 3; d++)
        for (unsigned e = 0; e < 3; e++) {
            uint64_t needed = distances[d] / each[e];
            struct run r = {
                .broker = {.distance_ns = distances[d], .each_ns = each[e], .noise = 5}};
            run_begin(&r);
            run_for(&r, 30 * SECOND);
            run_forget(&r);
            run_for(&r, 60 * SECOND);
            assert_in_range(share(&r, 60 * SECOND), 93, 106);
            assert_true(r.largest <= 2 * r.smallest);
            assert_true(r.largest <= 2 * (needed > 256 ? needed : 256));
            assert_int_equal(autotune_is_far(&r.tuned), distances[d] > 20 * MS && needed > 1000);
            run_end(&r);
        }
}

/* Small messages over a network that holds many of them. */
static void test_far_and_fast(void **state)
{
    (void)state;
    struct run r = {.broker = {.distance_ns = 50 * MS, .each_ns = 300}};
    run_begin(&r);
    run_for(&r, 5 * SECOND);
    run_forget(&r);
    run_for(&r, SECOND);
    assert_in_range(share(&r, SECOND), 90, 100);
    assert_in_range(r.largest, 50 * MS / 300, 2 * 50 * MS / 300);
    run_end(&r);
}

/* A slow one is not given more: it would only wait there. */
static void test_slow(void **state)
{
    (void)state;
    struct run r = {.broker = {.distance_ns = MS, .each_ns = 2 * MS, .noise = 10}};
    run_begin(&r);
    run_for(&r, 120 * SECOND);
    assert_in_range(r.peak, 256, 512);
    assert_false(autotune_is_far(&r.tuned));
    run_end(&r);
}

/* Its confirms come in lumps: what is under way has to last from one to the next. */
static void test_lumps(void **state)
{
    (void)state;
    struct run r = {.broker = {.distance_ns = MS, .each_ns = 20 * US, .lump_ns = 50 * MS}};
    run_begin(&r);
    run_for(&r, 5 * SECOND);
    run_forget(&r);
    run_for(&r, 60 * SECOND);
    assert_in_range(share(&r, 60 * SECOND), 90, 100);
    assert_true(r.largest <= 2 * 2500);
    assert_true(r.largest <= 2 * r.smallest);
    run_end(&r);
}

static void test_bursts_are_learned_from(void **state)
{
    (void)state;
    struct run r = {
        .broker = {.distance_ns = 50 * MS, .each_ns = 10 * US}, .burst = 20000, .pause_ns = SECOND};
    run_begin(&r);
    run_for(&r, 10 * SECOND);
    assert_true(r.tuned.size >= 4096);
    assert_true(r.tuned.size <= 16384);
    run_end(&r);
}

/* One who sends less than the window teaches nothing. */
static void test_a_slow_publisher_changes_nothing(void **state)
{
    (void)state;
    struct run r = {
        .broker = {.distance_ns = 50 * MS, .each_ns = 10 * US}, .burst = 200, .pause_ns = 100 * MS};
    run_begin(&r);
    run_forget(&r);
    run_for(&r, 60 * SECOND);
    assert_int_equal(r.largest, 0);
    assert_int_equal(r.tuned.size, 256);
    run_end(&r);
}

/* RabbitMQ moves away, and comes back. */
static void test_it_follows(void **state)
{
    (void)state;
    struct run r = {.broker = {.distance_ns = 200 * US, .each_ns = 20 * US}};
    run_begin(&r);
    run_for(&r, 30 * SECOND);
    assert_int_equal(r.tuned.size, 256);
    r.broker.distance_ns = 100 * MS;
    run_for(&r, 30 * SECOND);
    assert_in_range(r.tuned.size, 4500, 12000);
    assert_true(autotune_is_far(&r.tuned));
    r.broker.distance_ns = 200 * US;
    run_for(&r, 120 * SECOND);
    assert_int_equal(r.tuned.size, 256);
    assert_false(autotune_is_far(&r.tuned));
    run_end(&r);
}

/* All that a channel had under way is over at once when RabbitMQ closes it. */
static void test_one_short_round_is_not_for_ever(void **state)
{
    (void)state;
    struct run r = {.broker = {.distance_ns = 50 * MS, .each_ns = 10 * US}};
    run_begin(&r);
    run_for(&r, 30 * SECOND);
    assert_true(autotune_is_far(&r.tuned));
    while (!autotune_settled(&r.tuned, 1))
        assert_int_equal(r.tuned.round_end_ns, 0);
    autotune_end_round(&r.tuned, r.tuned.round_begin_ns + MS);
    assert_false(autotune_is_far(&r.tuned));
    run_for(&r, 30 * SECOND);
    assert_true(autotune_is_far(&r.tuned));
    run_end(&r);
}

/* A further connection to the same RabbitMQ goes as fast as the first one from the start. */
static void test_it_begins_where_another_one_is(void **state)
{
    (void)state;
    struct run r = {.broker = {.distance_ns = 50 * MS, .each_ns = 10 * US}};
    struct autotune other = {.size = 8192, .shortest_ns = 50 * MS};
    run_begin(&r);
    autotune_begin_as(&r.tuned, &other);
    assert_true(autotune_is_far(&r.tuned));
    run_forget(&r);
    run_for(&r, SECOND);
    assert_in_range(share(&r, SECOND), 90, 100);
    run_for(&r, 30 * SECOND);
    assert_in_range(r.tuned.size, 5000, 10000);
    run_end(&r);
}

/* Small messages into something very fast: a millisecond of them. */
static void test_a_fast_one_is_not_woken_for_few(void **state)
{
    (void)state;
    struct run r = {.broker = {.distance_ns = 100 * US, .each_ns = US / 4}};
    run_begin(&r);
    run_for(&r, SECOND);
    assert_in_range(autotune_window(&r.tuned), 3500, 4500);
    run_end(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_near_it_stays_as_it_begins),
        cmocka_unit_test(test_far),
        cmocka_unit_test(test_far_and_fast),
        cmocka_unit_test(test_slow),
        cmocka_unit_test(test_lumps),
        cmocka_unit_test(test_bursts_are_learned_from),
        cmocka_unit_test(test_a_slow_publisher_changes_nothing),
        cmocka_unit_test(test_it_follows),
        cmocka_unit_test(test_one_short_round_is_not_for_ever),
        cmocka_unit_test(test_it_begins_where_another_one_is),
        cmocka_unit_test(test_a_fast_one_is_not_woken_for_few),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
