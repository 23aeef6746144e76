/* What a channel in confirm mode is told: never more than is true, and everything once. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "session/ledger.h"

static void add(struct ledger *l, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t expected = ledger_next_tag(l);
        assert_int_equal(ledger_add(l), expected);
    }
}

/* All answers that are due, as text: "+3*" is an ack of all up to 3, "-2" a nack of 2. */
static const char *taken(struct ledger *l)
{
    static char text[512];
    text[0] = 0;
    struct ledger_answer a;
    while (ledger_take(l, &a)) {
        char one[32];
        snprintf(one, sizeof one, "%s%c%llu%s", text[0] ? " " : "", a.nack ? '-' : '+',
                 (unsigned long long)a.tag, a.multiple ? "*" : "");
        strncat(text, one, sizeof text - strlen(text) - 1);
    }
    return text;
}

static void test_in_order(void **state)
{
    (void)state;
    struct ledger l = {0};
    add(&l, 5);
    assert_string_equal(taken(&l), "");
    assert_true(ledger_decide(&l, 1, true));
    assert_string_equal(taken(&l), "+1");
    for (uint64_t tag = 2; tag <= 4; tag++)
        assert_true(ledger_decide(&l, tag, true));
    assert_string_equal(taken(&l), "+4*");
    assert_true(ledger_decide(&l, 5, true));
    assert_string_equal(taken(&l), "+5");
    ledger_deinit(&l);
}

static void test_an_open_tag_is_not_covered(void **state)
{
    (void)state;
    struct ledger l = {0};
    add(&l, 4);
    assert_true(ledger_decide(&l, 2, true));
    assert_true(ledger_decide(&l, 4, true));
    assert_string_equal(taken(&l), "+2 +4");
    assert_true(ledger_decide(&l, 1, true));
    assert_string_equal(taken(&l), "+1");
    assert_true(ledger_decide(&l, 3, true));
    assert_string_equal(taken(&l), "+3");
    ledger_deinit(&l);
}

static void test_a_refused_one_hides_no_other(void **state)
{
    (void)state;
    struct ledger l = {0};
    add(&l, 3);
    assert_true(ledger_decide(&l, 2, false));
    assert_string_equal(taken(&l), "-2");
    assert_true(ledger_decide(&l, 3, true));
    assert_string_equal(taken(&l), "+3");
    assert_true(ledger_decide(&l, 1, true));
    assert_string_equal(taken(&l), "+1");
    assert_int_equal(l.count, 0);
    add(&l, 3); /* 4 to 6: decided together */
    assert_true(ledger_decide(&l, 6, true));
    assert_true(ledger_decide(&l, 5, false));
    assert_true(ledger_decide(&l, 4, true));
    assert_string_equal(taken(&l), "+4 -5 +6");
    add(&l, 3); /* 7 to 9: the one between was told before the others are decided */
    assert_true(ledger_decide(&l, 8, false));
    assert_string_equal(taken(&l), "-8");
    assert_true(ledger_decide(&l, 7, true));
    assert_true(ledger_decide(&l, 9, true));
    assert_string_equal(taken(&l), "+7 +9");
    ledger_deinit(&l);
}

static void test_what_is_not_open(void **state)
{
    (void)state;
    struct ledger l = {0};
    assert_false(ledger_decide(&l, 0, true));
    assert_false(ledger_decide(&l, 1, true));
    add(&l, 2);
    assert_false(ledger_decide(&l, 3, true));
    assert_true(ledger_decide(&l, 2, true));
    assert_false(ledger_decide(&l, 2, false));
    assert_string_equal(taken(&l), "+2");
    assert_false(ledger_decide(&l, 2, true));
    assert_true(ledger_decide(&l, 1, true));
    assert_string_equal(taken(&l), "+1");
    assert_false(ledger_decide(&l, 1, true));
    assert_string_equal(taken(&l), "");
    ledger_deinit(&l);
}

/* Against a list of what is true: each tag is told once, as it is, and none before. */
static void test_any_order(void **state)
{
    (void)state;
    enum { TAGS = 5000 };
    struct ledger l = {0};
    static char truth[TAGS + 1], told[TAGS + 1]; /* 'o'pen, 's'afe, 'r'efused */
    unsigned seed = 1, next = 0, open_from = 1, decided = 0;
    memset(truth, 0, sizeof truth);
    memset(told, 0, sizeof told);
    while (decided < TAGS) {
        seed = seed * 1103515245 + 12345;
        unsigned dice = seed >> 16;
        if (next < TAGS && next - decided < 600 && dice % 3 > 0) {
            next++;
            assert_int_equal(ledger_add(&l), next);
            truth[next] = 'o';
        } else if (decided < next) {
            unsigned tag = open_from + dice % (next - open_from + 1);
            if (truth[tag] != 'o')
                tag = open_from;
            truth[tag] = dice % 7 == 0 ? 'r' : 's';
            assert_true(ledger_decide(&l, tag, truth[tag] == 's'));
            decided++;
            while (open_from <= next && truth[open_from] != 'o')
                open_from++;
        }
        if (dice % 5 > 0 && decided < TAGS)
            continue;
        struct ledger_answer a;
        while (ledger_take(&l, &a)) {
            for (uint64_t t = a.multiple ? 1 : a.tag; t <= a.tag; t++) {
                if (a.multiple && told[t])
                    continue;
                assert_int_equal(told[t], 0);
                assert_int_equal(truth[t], a.nack ? 'r' : 's');
                told[t] = truth[t];
            }
        }
        for (unsigned t = 1; t <= next; t++)
            assert_true(told[t] == truth[t] || truth[t] == 'o');
    }
    assert_int_equal(l.count, 0);
    assert_int_equal(l.answered, TAGS);
    ledger_deinit(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order),
        cmocka_unit_test(test_an_open_tag_is_not_covered),
        cmocka_unit_test(test_a_refused_one_hides_no_other),
        cmocka_unit_test(test_what_is_not_open),
        cmocka_unit_test(test_any_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
