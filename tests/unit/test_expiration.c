#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "amqp/content.h"
#include "amqp/expiration.h"

/* class 60, weight 0, size 0; every property up to message-id. */
static size_t make_header(uint8_t *out, const char *expiration)
{
    static const uint8_t head[] = {0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0x80};
    static const uint8_t before[] = {3,   'a', '/', 'b', 1, 'e', 0,   0,   0, 4,   1,
                                     'k', 't', 1,   2,   9, 2,   'c', 'i', 2, 'r', 't'};
    static const uint8_t after[] = {2, 'm', '1'};
    uint8_t *at = out;
    memcpy(at, head, sizeof head);
    at += sizeof head;
    memcpy(at, before, sizeof before);
    at += sizeof before;
    *at++ = (uint8_t)strlen(expiration);
    memcpy(at, expiration, strlen(expiration));
    at += strlen(expiration);
    memcpy(at, after, sizeof after);
    return (size_t)(at - out) + sizeof after;
}

static void check(const char *expiration, uint64_t waited_ms, const char *expected)
{
    uint8_t header[128], shortened[128], wanted[128];
    uint64_t body_size;
    size_t len = make_header(header, expiration);
    assert_int_equal(header_check(header, len, &body_size), CONTENT_MORE);
    size_t got = expiration_shorten(header, len, waited_ms, shortened);
    if (!expected) {
        assert_int_equal(got, 0);
        return;
    }
    size_t wanted_len = make_header(wanted, expected);
    assert_int_equal(got, wanted_len);
    assert_memory_equal(shortened, wanted, wanted_len);
}

static void test_shortens(void **state)
{
    (void)state;
    check("60000", 1, "59999");
    check("60000", 59999, "1");
    check("60000", 60000, "0");
    check("60000", UINT64_MAX, "0");
    check("0", 5, "0");
}

static void test_leaves_alone_what_is_not_a_number(void **state)
{
    (void)state;
    check("", 5, NULL);
    check("1h", 5, NULL);
    check("99999999999999999999", 5, NULL);
}

static void test_no_expiration(void **state)
{
    (void)state;
    uint8_t out[32];
    static const uint8_t header[] = {0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 2};
    assert_int_equal(expiration_shorten(header, sizeof header, 5, out), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shortens),
        cmocka_unit_test(test_leaves_alone_what_is_not_a_number),
        cmocka_unit_test(test_no_expiration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
