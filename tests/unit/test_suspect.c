/* Which publishes RabbitMQ's words point at. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "amqp/frame.h"
#include "amqp/method.h"
#include "drain/suspect.h"

static struct trace trace_of(const char *exchange, const char *user_id, uint64_t body_size)
{
    static uint8_t method[512], header[512];
    amqp_basic_publish_t publish = {.exchange = amqp_cstring_bytes(exchange),
                                    .routing_key = amqp_cstring_bytes("key")};
    size_t size = method_encode(method, sizeof method, 1, AMQP_BASIC_PUBLISH_METHOD, &publish);
    assert_true(size > 0);
    memset(header, 0, sizeof header);
    header[1] = 60; /* class basic */
    for (int i = 0; i < 8; i++)
        header[4 + i] = (uint8_t)(body_size >> (8 * (7 - i)));
    size_t header_len = 14;
    if (user_id) {
        header[13] = 1 << 4;
        header[14] = (uint8_t)strlen(user_id);
        memcpy(header + 15, user_id, strlen(user_id));
        header_len += 1 + strlen(user_id);
    }
    struct trace trace;
    trace_publish(&trace, method + FRAME_HEAD_BYTES, size - FRAME_OVERHEAD_BYTES, header,
                  header_len);
    return trace;
}

static bool fits(const char *text, const char *exchange, const char *user_id, uint64_t body_size)
{
    struct trace trace = trace_of(exchange, user_id, body_size);
    struct accusation accusation = accusation_read(text);
    return accusation_fits(&accusation, &trace);
}

static void test_exchange(void **state)
{
    (void)state;
    const char *missing = "NOT_FOUND - no exchange 'gone' in vhost '/'";
    assert_true(fits(missing, "gone", NULL, 5));
    assert_false(fits(missing, "gon", NULL, 5));
    assert_false(fits(missing, "", NULL, 5));
    assert_true(fits("ACCESS_REFUSED - access to exchange 'it's' in vhost '/' refused for user 'u'",
                     "it's", NULL, 5));
    assert_true(fits("ACCESS_REFUSED - write access to exchange 'x' in vhost '/' refused for "
                     "user 'u'",
                     "x", NULL, 5));
}

static void test_topic(void **state)
{
    (void)state;
    const char *mine = "ACCESS_REFUSED - access to topic 'key' in exchange 'x' in vhost '/' "
                       "refused for user 'u'";
    assert_true(fits(mine, "x", NULL, 5));
    /* The same key may be allowed elsewhere, and another key here. */
    assert_false(fits(mine, "y", NULL, 5));
    assert_false(fits("ACCESS_REFUSED - access to topic 'other' in exchange 'x' in vhost '/' "
                      "refused for user 'u'",
                      "x", NULL, 5));
}

static void test_user_id(void **state)
{
    (void)state;
    const char *foreign = "PRECONDITION_FAILED - user_id property set to 'mallory' but "
                          "authenticated user was 'guest'";
    assert_true(fits(foreign, "x", "mallory", 5));
    assert_false(fits(foreign, "x", "guest", 5));
    assert_false(fits(foreign, "x", NULL, 5));
}

static void test_size(void **state)
{
    (void)state;
    const char *large =
        "PRECONDITION_FAILED - message size 1001 is larger than configured max size 1000";
    assert_true(fits(large, "x", NULL, 1001));
    assert_false(fits(large, "x", NULL, 1000));
    assert_false(fits(large, "x", NULL, 1002));
}

static void test_words_that_point_at_nobody(void **state)
{
    (void)state;
    assert_false(fits("INTERNAL_ERROR", "", NULL, 0));
    assert_false(fits("", "", NULL, 0));
    assert_false(fits("NOT_FOUND - no exchange 'cut off by the leng", "cut", NULL, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exchange),
        cmocka_unit_test(test_topic),
        cmocka_unit_test(test_user_id),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_words_that_point_at_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
