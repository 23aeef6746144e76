#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "amqp/table.h"
#include "amqp/wire.h"
#include "peer/capability.h"

#define BYTES(text) (const uint8_t *)(text), sizeof(text) - 1

#define BLOCKED "\022connection.blockedt\001"
#define REFUSED "\034authentication_failure_closet\001"
#define PRODUCT "\007productS\0\0\0\001x"

/* A table with its length in front. */
static size_t make(uint8_t *out, const uint8_t *fields, size_t len)
{
    wire_put32(out, (uint32_t)len);
    memcpy(out + 4, fields, len);
    return len + 4;
}

/* The field capabilities with these in it. */
static size_t make_capabilities(uint8_t *out, const uint8_t *fields, size_t len)
{
    memcpy(out, "\014capabilitiesF", 14);
    return 14 + make(out + 14, fields, len);
}

static uint8_t *announce(const uint8_t *fields, size_t fields_len, size_t *len)
{
    uint8_t table[512];
    *len = make(table, fields, fields_len);
    uint8_t *announced = capability_announce(table, len);
    assert_int_equal(wire_get32(announced), *len - 4);
    assert_true(table_check(announced + 4, *len - 4));
    return announced;
}

static void assert_fields(const uint8_t *announced, size_t len, const uint8_t *fields,
                          size_t fields_len)
{
    assert_int_equal(len - 4, fields_len);
    assert_memory_equal(announced + 4, fields, fields_len);
}

static void test_without_capabilities_they_are_added(void **state)
{
    (void)state;
    size_t len, expected_len;
    uint8_t expected[256];
    uint8_t *announced = announce(BYTES(PRODUCT), &len);
    expected_len = make_capabilities(expected, BYTES(REFUSED BLOCKED));
    memcpy(expected + expected_len, PRODUCT, sizeof PRODUCT - 1);
    assert_fields(announced, len, expected, expected_len + sizeof PRODUCT - 1);
    free(announced);
    announced = announce(BYTES(""), &len);
    assert_fields(announced, len, expected, expected_len);
    free(announced);
}

static void test_those_of_the_client_stay(void **state)
{
    (void)state;
    size_t len, fields_len, expected_len;
    uint8_t fields[256], expected[256];
    memcpy(fields, PRODUCT, sizeof PRODUCT - 1);
    memcpy(expected, PRODUCT, sizeof PRODUCT - 1);
    fields_len = expected_len = sizeof PRODUCT - 1;
    fields_len += make_capabilities(fields + fields_len, BYTES("\001at\000" REFUSED "\001bV"));
    expected_len +=
        make_capabilities(expected + expected_len, BYTES(BLOCKED "\001at\000" REFUSED "\001bV"));
    uint8_t *announced = announce(fields, fields_len, &len);
    assert_fields(announced, len, expected, expected_len);
    free(announced);
}

static void test_a_no_becomes_a_yes(void **state)
{
    (void)state;
    size_t len, fields_len, expected_len;
    uint8_t fields[256], expected[256];
    fields_len = make_capabilities(fields, BYTES(REFUSED "\022connection.blockedt\000"));
    expected_len = make_capabilities(expected, BYTES(REFUSED BLOCKED));
    uint8_t *announced = announce(fields, fields_len, &len);
    assert_fields(announced, len, expected, expected_len);
    free(announced);
}

static void test_what_is_no_table_is_left_alone(void **state)
{
    (void)state;
    size_t len;
    uint8_t *announced = announce(BYTES("\014capabilitiesV" PRODUCT), &len);
    assert_fields(announced, len, BYTES("\014capabilitiesV" PRODUCT));
    free(announced);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_capabilities_they_are_added),
        cmocka_unit_test(test_those_of_the_client_stay),
        cmocka_unit_test(test_a_no_becomes_a_yes),
        cmocka_unit_test(test_what_is_no_table_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
