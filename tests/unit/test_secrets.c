#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "pool/secrets.h"

static struct secrets secrets;

static int setup(void **state)
{
    (void)state;
    secrets_init(&secrets, "first");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    secrets_deinit(&secrets);
    return 0;
}

static void test_only_the_current_one_is_known_at_first(void **state)
{
    (void)state;
    assert_true(secrets_know(&secrets, "first"));
    assert_true(secrets_vouch(&secrets, "first", UINT64_MAX));
    assert_false(secrets_know(&secrets, ""));
    assert_false(secrets_know(&secrets, "firs"));
    assert_false(secrets_know(&secrets, "first "));
    assert_string_equal(secrets_to_dial(&secrets), "first");
}

static void test_another_one_is_fresh_for_a_while(void **state)
{
    (void)state;
    secrets_remember(&secrets, "other", 1000);
    assert_true(secrets_vouch(&secrets, "other", 1000 + SECRETS_FRESH_MS - 1));
    assert_false(secrets_vouch(&secrets, "other", 1000 + SECRETS_FRESH_MS));
    assert_true(secrets_know(&secrets, "other"));
    secrets_remember(&secrets, "other", 90000); /* proven once more, in the same place */
    assert_true(secrets_vouch(&secrets, "other", 90000));
    secrets_forget(&secrets, "other");
    assert_false(secrets_know(&secrets, "other"));
    secrets_forget(&secrets, "nobody's");
}

static void test_the_oldest_of_too_many_goes(void **state)
{
    (void)state;
    char name[] = "a";
    for (unsigned i = 0; i < SECRETS_OTHERS; i++, name[0]++)
        secrets_remember(&secrets, name, 100 + (i == 3 ? 0 : i + 1)); /* "d" is the oldest */
    secrets_remember(&secrets, "one more", 200);
    assert_false(secrets_know(&secrets, "d"));
    assert_true(secrets_know(&secrets, "a"));
    assert_true(secrets_know(&secrets, "h"));
    assert_true(secrets_know(&secrets, "one more"));
}

static void test_the_one_before_stays_good_if_it_was(void **state)
{
    (void)state;
    secrets_replace(&secrets, "second", true, 50);
    assert_string_equal(secrets_to_dial(&secrets), "second");
    assert_true(secrets_vouch(&secrets, "first", 50));
    secrets_replace(&secrets, "third", false, 60);
    assert_false(secrets_know(&secrets, "second"));
    assert_true(secrets_know(&secrets, "first"));
    secrets_replace(&secrets, "first", true, 70); /* it is no longer one of the others */
    assert_true(secrets_vouch(&secrets, "first", UINT64_MAX));
    secrets_forget(&secrets, "first");
    assert_true(secrets_know(&secrets, "first"));
}

static void test_a_candidate_is_dialled_with(void **state)
{
    (void)state;
    assert_false(secrets_is_candidate(&secrets, "first"));
    secret_set(&secrets.candidate, "new");
    assert_string_equal(secrets_to_dial(&secrets), "new");
    assert_true(secrets_is_candidate(&secrets, "new"));
    assert_false(secrets_know(&secrets, "new"));
    secret_wipe(&secrets.candidate);
    assert_string_equal(secrets_to_dial(&secrets), "first");
    secret_wipe(&secrets.candidate);
}

int main(void)
{
#define WITH_SECRETS(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_SECRETS(test_only_the_current_one_is_known_at_first),
        WITH_SECRETS(test_another_one_is_fresh_for_a_while),
        WITH_SECRETS(test_the_oldest_of_too_many_goes),
        WITH_SECRETS(test_the_one_before_stays_good_if_it_was),
        WITH_SECRETS(test_a_candidate_is_dialled_with),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
