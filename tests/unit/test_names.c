/* What is known of queues and exchanges by their names. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "amqp/method.h"
#include "drain/names.h"

enum { QUEUE = AMQP_QUEUE_DECLARE_METHOD, EXCHANGE = AMQP_EXCHANGE_DECLARE_METHOD };

static const uint8_t *bytes(const char *text)
{
    return (const uint8_t *)text;
}

/* True if the text of a 404 makes this name forgotten. */
static bool forgets(uint32_t kind, const char *name, const char *text, const char *vhost)
{
    struct names names = {0};
    names_note_seen(&names, names_hash(kind, bytes(name), strlen(name)));
    names_note_missing(&names, text, vhost);
    bool is_known = names_has_seen(&names, kind, bytes(name), strlen(name));
    names_clear(&names);
    return !is_known;
}

static void test_what_is_missing_is_forgotten(void **state)
{
    (void)state;
    assert_true(forgets(QUEUE, "q", "NOT_FOUND - no queue 'q' in vhost '/'", "/"));
    assert_true(forgets(EXCHANGE, "e", "NOT_FOUND - no exchange 'e' in vhost 'v'", "v"));
    assert_true(forgets(QUEUE, "q", "NOT_FOUND - no queue 'q' in vhost ''", ""));
    assert_true(forgets(QUEUE, "a' in vhost '/' b", /* names may hold anything */
                        "NOT_FOUND - no queue 'a' in vhost '/' b' in vhost '/'", "/"));
}

static void test_nothing_else_is(void **state)
{
    (void)state;
    assert_false(forgets(QUEUE, "q", "NOT_FOUND - no exchange 'q' in vhost '/'", "/"));
    assert_false(forgets(EXCHANGE, "q", "NOT_FOUND - no queue 'q' in vhost '/'", "/"));
    assert_false(forgets(QUEUE, "q", "NOT_FOUND - no queue 'q2' in vhost '/'", "/"));
    assert_false(forgets(QUEUE, "q", "NOT_FOUND - no queue 'q' in vhost 'v'", "/"));
    assert_false(forgets(QUEUE, "q", "NOT_FOUND - no queue 'q", "/"));
    assert_false(forgets(QUEUE, "q", "", "/"));
    assert_false(forgets(EXCHANGE, "amq.x", "NOT_FOUND - no exchange 'amq.x' in vhost '/'", "/"));
}

/* A queue with such a name is one that RabbitMQ has made up. */
static void test_exchanges_alone_are_built_in(void **state)
{
    (void)state;
    struct names names = {0};
    assert_true(names_has_seen(&names, EXCHANGE, bytes(""), 0));
    assert_true(names_has_seen(&names, EXCHANGE, bytes("amq.topic"), 9));
    assert_false(names_has_seen(&names, EXCHANGE, bytes("amq"), 3));
    assert_false(names_has_seen(&names, QUEUE, bytes("amq.gen-1"), 9));
    assert_false(names_has_seen(&names, QUEUE, bytes(""), 0));
}

/* Its declaration waits: it will be there. */
static void test_what_is_promised_stays_known(void **state)
{
    (void)state;
    struct names names = {0};
    names_promise(&names, QUEUE, bytes("q"), 1, false);
    names_note_missing(&names, "NOT_FOUND - no queue 'q' in vhost '/'", "/");
    assert_true(names_has_seen(&names, QUEUE, bytes("q"), 1));
    names_clear(&names);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_missing_is_forgotten),
        cmocka_unit_test(test_nothing_else_is),
        cmocka_unit_test(test_exchanges_alone_are_built_in),
        cmocka_unit_test(test_what_is_promised_stays_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
