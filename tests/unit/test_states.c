#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/log_lines.h"
#include "base/log.h"
#include "base/states.h"

enum light { LIGHT_RED, LIGHT_GREEN, LIGHT_BROKEN };

static const struct states states = {
    .object = "light",
    .names = {[LIGHT_RED] = "red", [LIGHT_GREEN] = "green", [LIGHT_BROKEN] = "broken"},
    .next = {[LIGHT_RED] = TO(LIGHT_GREEN) | TO(LIGHT_BROKEN), [LIGHT_GREEN] = TO(LIGHT_RED)},
};

static enum light move(enum light from, enum light to)
{
    STATE_MOVE(&states, from, to);
    return from;
}

/* An unexpected one is made, too: the log alone tells. */
static void test_every_move_is_made(void **state)
{
    (void)state;
    log_init(LOG_INFO, LOG_LOGFMT);
    assert_int_equal(move(LIGHT_RED, LIGHT_GREEN), LIGHT_GREEN);
    assert_string_equal(log_next_write(), "");
    assert_int_equal(move(LIGHT_BROKEN, LIGHT_RED), LIGHT_RED);
    assert_string_equal(log_next_line(), "level=error event=state_unexpected object=light "
                                         "from=broken to=red\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_move_is_made, log_redirect, log_restore)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
