/* Whose fault a failure is, as a table. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "drain/blame.h"

static const struct {
    uint16_t code;
    const char *text;
    enum blame blame;
} failures[] = {
    {0, "", BLAME_TRANSIENT},
    {311, "CONTENT_TOO_LARGE - message size 9 is larger than configured max size 8", BLAME_MESSAGE},
    {312, "NO_ROUTE", BLAME_UNROUTABLE},
    {320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'",
     BLAME_BROKER},
    {402, "INVALID_PATH", BLAME_MESSAGE},
    {403, "ACCESS_REFUSED - write access to exchange 'x' in vhost '/' refused for user 'u'",
     BLAME_MESSAGE},
    {403,
     "ACCESS_REFUSED - write access to exchange 'x' in vhost '/' refused for user 'u', backend "
     "rabbit_auth_backend_oauth2 returned an error: \"Provided JWT token has expired",
     BLAME_BROKER},
    {403,
     "ACCESS_REFUSED - write access to exchange 'refused for user 'a', b returned an error: "
     "x' in vhost '/' refused for user 'u'",
     BLAME_MESSAGE},
    {404, "NOT_FOUND - no exchange 'x' in vhost '/'", BLAME_MISSING},
    {404, "NOT_FOUND - no queue 'q' in vhost '/'", BLAME_MISSING},
    {404, "NOT_FOUND - no queue 'NOT_FOUND - queue 'q'' in vhost '/'", BLAME_MISSING},
    {404,
     "NOT_FOUND - home node 'rabbit@a' of durable queue 'q' in vhost '/' is down or inaccessible",
     BLAME_TRANSIENT},
    {404, "NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor", BLAME_TRANSIENT},
    {404, "NOT_FOUND - queue 'q' in vhost '/' has crashed and failed to restart", BLAME_TRANSIENT},
    {404, "NOT_FOUND - failed to perform operation on queue 'q' in vhost '/' due to timeout",
     BLAME_TRANSIENT},
    {405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'",
     BLAME_TRANSIENT},
    {406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/'",
     BLAME_MESSAGE},
    {406, "PRECONDITION_FAILED - user_id property set to 'm' but authenticated user was 'u'",
     BLAME_MESSAGE},
    {406, "PRECONDITION_FAILED - cannot declare queue 'q': queue limit in vhost '/' (3) is reached",
     BLAME_TRANSIENT},
    {501, "FRAME_ERROR - cannot read", BLAME_TRANSIENT},
    {502, "SYNTAX_ERROR - cannot decode", BLAME_MESSAGE},
    {503, "COMMAND_INVALID", BLAME_TRANSIENT},
    {504, "CHANNEL_ERROR - expected 'channel.open'", BLAME_TRANSIENT},
    {505, "UNEXPECTED_FRAME", BLAME_TRANSIENT},
    {506, "RESOURCE_ERROR - no disk", BLAME_TRANSIENT},
    {530, "NOT_ALLOWED - vhost '/' is down", BLAME_BROKER},
    {530, "NOT_ALLOWED - attempt to reuse consumer tag", BLAME_MESSAGE},
    {540, "NOT_IMPLEMENTED - immediate=true", BLAME_MESSAGE},
    {541, "INTERNAL_ERROR", BLAME_TRANSIENT},
    {541, "INTERNAL_ERROR - Cannot declare a queue 'queue 'q' in vhost '/'': timed out",
     BLAME_TRANSIENT},
    {541, "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.", BLAME_MESSAGE},
};

static void test_whose_fault(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof failures / sizeof failures[0]; i++)
        if (blame_of(failures[i].code, failures[i].text) != failures[i].blame)
            fail_msg("%u %s: %d", failures[i].code, failures[i].text,
                     blame_of(failures[i].code, failures[i].text));
}

static const struct {
    enum blame blame;
    struct circumstances circumstances;
    enum remedy remedy;
} remedies[] = {
    {BLAME_MESSAGE, {.tries = 1, .nack_limit = 10, .just_back = true}, REMEDY_REJECT},
    {BLAME_MISSING, {.tries = 1, .nack_limit = 10}, REMEDY_REJECT},
    {BLAME_MISSING, {.tries = 1000, .nack_limit = 10, .missing_waits = true}, REMEDY_AGAIN},
    {BLAME_TRANSIENT, {.tries = 1, .nack_limit = 10}, REMEDY_AGAIN},
    {BLAME_TRANSIENT, {.tries = 9, .nack_limit = 10}, REMEDY_AGAIN},
    {BLAME_TRANSIENT, {.tries = 10, .nack_limit = 10}, REMEDY_REJECT},
    {BLAME_TRANSIENT, {.tries = 1, .nack_limit = 1}, REMEDY_REJECT},
    {BLAME_UNROUTABLE, {.tries = 1000, .nack_limit = 10, .just_back = true}, REMEDY_AGAIN},
    {BLAME_UNROUTABLE, {.just_back = true, .mandatory = true}, REMEDY_AGAIN},
    {BLAME_UNROUTABLE, {.tries = 1}, REMEDY_DROP},
    {BLAME_UNROUTABLE, {.mandatory = true}, REMEDY_REJECT},
    {BLAME_UNROUTABLE, {.unroutable_rejects = true}, REMEDY_REJECT},
    {BLAME_BROKER, {.tries = 1000, .nack_limit = 10}, REMEDY_AGAIN},
};

static void test_what_follows(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof remedies / sizeof remedies[0]; i++)
        if (remedy_of(remedies[i].blame, &remedies[i].circumstances) != remedies[i].remedy)
            fail_msg("remedy %zu", i);
}

static void test_ten_tries_take_some_ten_seconds(void **state)
{
    (void)state;
    uint32_t sum = 0, last = 0;
    for (uint32_t tries = 1; tries < 10; tries++) {
        assert_true(blame_pause_ms(tries) >= last);
        last = blame_pause_ms(tries);
        sum += last;
    }
    assert_in_range(sum, 8000, 15000);
    assert_int_equal(blame_pause_ms(UINT32_MAX), last);
}

/* Clients name exchanges, and not vhosts that are there. */
static void test_the_end_of_a_vhost(void **state)
{
    (void)state;
    static const char ends[] = "NOT_FOUND - no exchange '' in vhost 'v'";
    assert_true(blame_is_end_of_vhost(404, ends, "v"));
    assert_false(blame_is_end_of_vhost(403, ends, "v"));
    assert_false(blame_is_end_of_vhost(404, ends, "vv"));
    assert_false(blame_is_end_of_vhost(404, ends, ""));
    static const char *const names[] = {"x", "no exchange '' in vhost", "' in vhost",
                                        "' in vhost 'v", "' in vhost 'v'"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char text[128];
        snprintf(text, sizeof text, "NOT_FOUND - no exchange '%s' in vhost 'v'", names[i]);
        assert_false(blame_is_end_of_vhost(404, text, "v"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whose_fault),
        cmocka_unit_test(test_what_follows),
        cmocka_unit_test(test_ten_tries_take_some_ten_seconds),
        cmocka_unit_test(test_the_end_of_a_vhost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
