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
    assert_int_equal(in_flight_first_unconfirmed(&f, &open)->seq, 2);
    assert_int_equal(open, 3);
    in_flight_set(&f, in_flight_find(&f, 3), SENT_AGAIN);
    assert_int_equal(in_flight_in_window(&f), 5);
    in_flight_forget_again(&f);
    assert_are(&f, (const uint64_t[]){1, 2, 4, 5, 6}, 5);
    in_flight_forget_open(&f, 1); /* the parked one as well */
    assert_are(&f, (const uint64_t[]){2, 4, 6}, 3);
    assert_int_equal(f.parked, 0);
    in_flight_forget_open(&f, 0); /* all; RabbitMQ has answered for 4 */
    assert_are(&f, (const uint64_t[]){4}, 1);
    assert_null(in_flight_first_unconfirmed(&f, &open));
    assert_int_equal(open, 0);
    in_flight_clear(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_late_ones_have_their_place),
        cmocka_unit_test(test_only_the_named_ones_are_removed),
        cmocka_unit_test(test_parked_ones_have_no_place_in_the_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
