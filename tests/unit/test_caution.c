#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "pool/caution.h"

static void test_a_method_is_remembered_for_a_while(void **state)
{
    (void)state;
    struct caution c = {0};
    assert_false(caution_is_wary(&c, 7, 0));
    caution_beware(&c, 7, 100);
    assert_true(caution_is_wary(&c, 7, 100 + CAUTION_METHOD_MS - 1));
    assert_false(caution_is_wary(&c, 7, 100 + CAUTION_METHOD_MS));
    assert_false(caution_is_wary(&c, 8, 100));
    caution_beware(&c, 7, 50000); /* again */
    assert_true(caution_is_wary(&c, 7, 100 + CAUTION_METHOD_MS));
}

static void test_the_oldest_method_of_too_many_is_forgotten(void **state)
{
    (void)state;
    struct caution c = {0};
    for (uint32_t i = 0; i < CAUTION_METHODS; i++)
        caution_beware(&c, 100 + i, 1000 + i);
    caution_beware(&c, 100, 2000); /* the first one is not the oldest any more */
    caution_beware(&c, 999, 3000);
    assert_true(caution_is_wary(&c, 100, 3000));
    assert_false(caution_is_wary(&c, 101, 3000));
    assert_true(caution_is_wary(&c, 102, 3000));
    assert_true(caution_is_wary(&c, 999, 3000));
}

static void test_the_limit_is_read_from_the_words(void **state)
{
    (void)state;
    static const char words[] = "NOT_ALLOWED - number of channels opened for user 'u' has reached "
                                "the maximum allowed user limit of (4)";
    struct caution c = {0};
    assert_null(caution_limit(&c, UINT32_MAX, 0));
    caution_learn_limit(&c, words, 77, 500);
    assert_null(caution_limit(&c, 3, 500));
    assert_string_equal(caution_limit(&c, 4, 500), words);
    assert_string_equal(caution_limit(&c, 5, 500 + CAUTION_LIMIT_MS - 1), words);
    assert_null(caution_limit(&c, 5, 500 + CAUTION_LIMIT_MS));
}

/* Then it is one less than there were, with the one too many. */
static void test_words_without_a_number(void **state)
{
    (void)state;
    static const struct {
        const char *words;
        uint32_t channels, limit;
    } all[] = {{"too many", 10, 9},
               {"too many", 1, 1},
               {"too many", 0, 1},
               {"(", 10, 9},
               {"limit of ()", 3, 2},
               {"limit of (0)", 3, 2},
               {"limit of (99999999999999999999)", 3, UINT32_MAX}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct caution c = {0};
        caution_learn_limit(&c, all[i].words, all[i].channels, 1);
        assert_int_equal(c.channels, all[i].limit);
    }
}

static void test_long_words_are_cut(void **state)
{
    (void)state;
    char words[1000];
    memset(words, 'x', sizeof words - 1);
    words[sizeof words - 1] = 0;
    struct caution c = {0};
    caution_learn_limit(&c, words, 5, 1);
    assert_int_equal(strlen(caution_limit(&c, 4, 1)), sizeof c.channels_text - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_method_is_remembered_for_a_while),
        cmocka_unit_test(test_the_oldest_method_of_too_many_is_forgotten),
        cmocka_unit_test(test_the_limit_is_read_from_the_words),
        cmocka_unit_test(test_words_without_a_number),
        cmocka_unit_test(test_long_words_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
