/* What a drain has sent, without a drain. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "drain/in_flight.h"

static void add(struct in_flight *f, uint64_t seq, uint64_t destination)
{
    struct job_record record = {.seq = seq, .destination = destination};
    struct sent *entry = in_flight_add(f, &record, 0, 1);
    assert_int_equal(entry->seq, seq);
    assert_int_equal(entry->state, SENT_UNCONFIRMED);
}

/* Exactly these, in this order. */
static void assert_are(struct in_flight *f, const uint64_t *seqs, uint32_t count)
{
    assert_int_equal(f->count, count);
    uint32_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct sent *entry = in_flight_next(f, &at);
        assert_non_null(entry);
        assert_int_equal(entry->seq, seqs[i]);
        assert_ptr_equal(in_flight_find(f, seqs[i]), entry);
    }
    assert_null(in_flight_next(f, &at));
}

static void test_late_ones_have_their_place(void **state)
{
    (void)state;
    struct in_flight f = {0};
    const uint64_t late[] = {5, 9, 7, 1, 8}, sorted[] = {1, 5, 7, 8, 9};
    for (unsigned i = 0; i < 5; i++)
        add(&f, late[i], 1);
    assert_are(&f, sorted, 5);
    assert_null(in_flight_find(&f, 6));
    in_flight_clear(&f);
}

static void test_only_the_named_ones_are_removed(void **state)
{
    (void)state;
    struct in_flight f = {0};
    for (uint64_t seq = 1; seq <= 8; seq++)
        add(&f, seq, 1);
    in_flight_remove(&f, (const uint64_t[]){5}, 1);
    assert_are(&f, (const uint64_t[]){1, 2, 3, 4, 6, 7, 8}, 7);
    in_flight_remove(&f, (const uint64_t[]){0, 1, 5, 7, 9}, 5); /* of which three are not there */
    assert_are(&f, (const uint64_t[]){2, 3, 4, 6, 8}, 5);
    in_flight_remove(&f, (const uint64_t[]){2, 3, 4, 6, 8}, 5);
    assert_are(&f, NULL, 0);
    in_flight_clear(&f);
}

static void test_parked_ones_have_no_place_in_the_window(void **state)
{
    (void)state;
    struct in_flight f = {0};
    for (uint64_t seq = 1; seq <= 6; seq++)
        add(&f, seq, seq % 2);
    in_flight_set(&f, in_flight_find(&f, 1), SENT_PARKED);
    in_flight_set(&f, in_flight_find(&f, 3), SENT_PARKED);
    in_flight_set(&f, in_flight_find(&f, 4), SENT_CONFIRMED);
    assert_int_equal(in_flight_in_window(&f), 4);
    uint32_t open;
    assert_int_equal(in_flight_first_open(&f, &open)->seq, 1); /* it may be to blame, too */
    assert_int_equal(open, 5);
    in_flight_set(&f, in_flight_find(&f, 3), SENT_AGAIN);
    assert_int_equal(in_flight_in_window(&f), 5);
    in_flight_forget_again(&f);
    assert_are(&f, (const uint64_t[]){1, 2, 4, 5, 6}, 5);
    in_flight_forget_open(&f, 1); /* the parked one as well */
    assert_are(&f, (const uint64_t[]){2, 4, 6}, 3);
    assert_int_equal(f.parked, 0);
    in_flight_forget_open(&f, 0); /* all; RabbitMQ has answered for 4 */
    assert_are(&f, (const uint64_t[]){4}, 1);
    assert_null(in_flight_first_open(&f, &open));
    assert_int_equal(open, 0);
    in_flight_clear(&f);
}

static struct sent *send_publish(struct in_flight *f, uint64_t seq, uint64_t tag)
{
    static uint8_t frames[256];
    struct job_record record = {.seq = seq,
                                .destination = 1,
                                .frames = frames,
                                .frames_len = 100,
                                .method_len = 20,
                                .header_len = 20};
    return in_flight_add(f, &record, tag, 1);
}

static void answer(struct in_flight *f, uint64_t tag)
{
    in_flight_set(f, in_flight_tagged(f, tag), SENT_CONFIRMED);
}

static void test_by_tag(void **state)
{
    (void)state;
    struct in_flight f = {0};
    for (uint64_t n = 1; n <= 10; n++)
        send_publish(&f, n, n);
    add(&f, 11, 1); /* a declaration has none */
    assert_int_equal(f.bytes, 1000);
    assert_int_equal(in_flight_oldest(&f)->seq, 1);
    assert_null(in_flight_tagged(&f, 0));
    assert_null(in_flight_tagged(&f, 11));
    answer(&f, 5);
    assert_null(in_flight_tagged(&f, 5));
    assert_int_equal(f.unconfirmed, 10);
    assert_int_equal(in_flight_open_of(&f, 1), 9);
    in_flight_set(&f, in_flight_tagged(&f, 6), SENT_PARKED);
    assert_int_equal(in_flight_open_of(&f, 1), 9);
    answer(&f, 1);
    answer(&f, 2);
    assert_int_equal(in_flight_oldest(&f)->tag, 3);
    assert_int_equal(in_flight_behind(&f, 0)->tag, 3);
    assert_int_equal(in_flight_behind(&f, 4)->tag, 6); /* parked is not answered */
    assert_int_equal(in_flight_behind(&f, 9)->tag, 10);
    assert_null(in_flight_behind(&f, 10));
    assert_int_equal(f.count, 11); /* until they are out of the queue */
    in_flight_remove(&f, (const uint64_t[]){5, 1, 2}, 3);
    assert_int_equal(f.count, 8);
    assert_int_equal(f.bytes, 600);

    /* RabbitMQ failed at an old one: it goes out again, with a later tag */
    in_flight_set(&f, in_flight_tagged(&f, 4), SENT_CONFIRMED);
    in_flight_set(&f, in_flight_find(&f, 4), SENT_AGAIN);
    assert_int_equal(in_flight_forget_again(&f), 1);
    assert_null(in_flight_find(&f, 4));
    send_publish(&f, 4, 11);
    assert_int_equal(in_flight_tagged(&f, 11)->seq, 4);
    assert_null(in_flight_tagged(&f, 4));
    uint32_t at = 0;
    assert_int_equal(in_flight_next(&f, &at)->seq, 3);
    assert_int_equal(in_flight_next(&f, &at)->seq, 4);
    assert_int_equal(in_flight_oldest(&f)->tag, 3);

    assert_int_equal(in_flight_forget_open(&f, 0), 7);
    in_flight_new_channel(&f);
    assert_int_equal(f.count, 0);
    assert_int_equal(in_flight_open_of(&f, 1), 0);
    assert_int_equal(f.bytes, 0);
    send_publish(&f, 3, 1);
    assert_int_equal(in_flight_tagged(&f, 1)->seq, 3);
    in_flight_clear(&f);
}

/* One that is never confirmed stays at the front, and all others pass. */
static void test_one_that_stays_costs_no_memory(void **state)
{
    (void)state;
    struct in_flight f = {0};
    send_publish(&f, 1, 1);
    in_flight_set(&f, in_flight_find(&f, 1), SENT_PARKED);
    for (uint64_t n = 2; n <= 100000; n++) {
        send_publish(&f, n, n);
        if (n < 12)
            continue;
        answer(&f, n - 10);
        in_flight_remove(&f, (const uint64_t[]){n - 10}, 1);
    }
    assert_int_equal(f.count, 11);
    assert_int_equal(f.bytes, 1000);
    assert_in_range(f.capacity, 11, 1024);
    assert_in_range(f.tags_capacity, 11, 1024);
    assert_int_equal(in_flight_oldest(&f)->seq, 1);
    assert_int_equal(in_flight_tagged(&f, 99995)->seq, 99995);
    uint32_t open;
    assert_int_equal(in_flight_first_open(&f, &open)->seq, 1);
    assert_int_equal(open, 11);
    in_flight_clear(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_late_ones_have_their_place),
        cmocka_unit_test(test_only_the_named_ones_are_removed),
        cmocka_unit_test(test_parked_ones_have_no_place_in_the_window),
        cmocka_unit_test(test_by_tag),
        cmocka_unit_test(test_one_that_stays_costs_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
