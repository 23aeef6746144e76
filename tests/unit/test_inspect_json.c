/* Values that the integration tests cannot bring: what the proxy refuses, and what takes an exact
 * comparison of text. */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <locale.h>

#include "text.h"
#include "json/escape.h"
#include "json/json.h"

static void assert_json(json_t *json, const char *expected)
{
    char *text = json_dumps(json, JSON_ENCODE_ANY | JSON_COMPACT);
    assert_non_null(text);
    assert_string_equal(text, expected);
    free(text);
    json_decref(json);
}

static void assert_field(uint8_t kind, amqp_field_value_t field, const char *expected)
{
    field.kind = kind;
    assert_json(json_field(&field), expected);
}

static void integers_of_every_width(void **state)
{
    (void)state;
    assert_field('b', (amqp_field_value_t){.value.i8 = -128}, "-128");
    assert_field('B', (amqp_field_value_t){.value.u8 = 255}, "255");
    assert_field('s', (amqp_field_value_t){.value.i16 = -32768}, "-32768");
    assert_field('u', (amqp_field_value_t){.value.u16 = 65535}, "65535");
    assert_field('I', (amqp_field_value_t){.value.i32 = INT32_MIN}, "-2147483648");
    assert_field('i', (amqp_field_value_t){.value.u32 = UINT32_MAX}, "4294967295");
    assert_field('l', (amqp_field_value_t){.value.i64 = INT64_MIN}, "-9223372036854775808");
    assert_field('L', (amqp_field_value_t){.value.u64 = UINT64_MAX}, "-1");
}

static void floats_that_json_has_no_number_for(void **state)
{
    (void)state;
    assert_field('d', (amqp_field_value_t){.value.f64 = 1.5}, "1.5");
    assert_field('f', (amqp_field_value_t){.value.f32 = -0.25F}, "-0.25");
    assert_field('d', (amqp_field_value_t){.value.f64 = NAN}, "\"NaN\"");
    assert_field('f', (amqp_field_value_t){.value.f32 = INFINITY}, "\"Infinity\"");
    assert_field('d', (amqp_field_value_t){.value.f64 = -INFINITY}, "\"-Infinity\"");
}

static void assert_decimal(uint8_t decimals, uint32_t value, const char *expected)
{
    assert_field('D', (amqp_field_value_t){.value.decimal = {decimals, value}}, expected);
}

static void decimals_keep_their_digits(void **state)
{
    (void)state;
    assert_decimal(2, 1234, "{\"decimal\":\"12.34\"}");
    assert_decimal(0, 1234, "{\"decimal\":\"1234\"}");
    assert_decimal(4, 1234, "{\"decimal\":\"0.1234\"}");
    assert_decimal(6, 1234, "{\"decimal\":\"0.001234\"}");
    assert_decimal(0, 0, "{\"decimal\":\"0\"}");
    assert_decimal(1, UINT32_MAX, "{\"decimal\":\"429496729.5\"}");
    json_t *smallest = json_field(
        &(amqp_field_value_t){.kind = 'D', .value.decimal = {.decimals = 255, .value = 7}});
    assert_int_equal(strlen(json_string_value(json_object_get(smallest, "decimal"))), 257);
    json_decref(smallest);
}

static void timestamps_are_times_while_they_can_be(void **state)
{
    (void)state;
    assert_field('T', (amqp_field_value_t){.value.u64 = 0}, "\"1970-01-01T00:00:00.000000Z\"");
    assert_field('T', (amqp_field_value_t){.value.u64 = 253402300799},
                 "\"9999-12-31T23:59:59.000000Z\"");
    assert_field('T', (amqp_field_value_t){.value.u64 = 253402300800}, "253402300800");
    assert_field('T', (amqp_field_value_t){.value.u64 = INT64_MAX}, "9223372036854775807");
    assert_field('T', (amqp_field_value_t){.value.u64 = UINT64_MAX}, "\"18446744073709551615\"");
}

static void bytes_are_text_if_they_can_be(void **state)
{
    (void)state;
    assert_json(json_bytes("", 0), "\"\"");
    assert_json(json_bytes("plain", 5), "\"plain\"");
    assert_json(json_bytes("\xC3\xA9", 2), "\"\xC3\xA9\"");
    assert_json(json_bytes("\xFF\xFE", 2), "{\"base64\":\"//4=\"}");
    assert_json(json_bytes("a\0b", 3), "{\"base64\":\"YQBi\"}");
    assert_json(json_bytes("\xED\xA0\x80", 3), "{\"base64\":\"7aCA\"}"); /* a lone surrogate */
}

static void names_that_are_not_text_are_escaped(void **state)
{
    (void)state;
    amqp_table_entry_t entries[] = {
        {{0, NULL}, {.kind = 'V'}},
        {{3, "a\0b"}, {.kind = 't', .value.boolean = 1}},
        {{2, "\xFFz"}, {.kind = 't', .value.boolean = 0}},
        {{2, "t\t"}, {.kind = 'V'}},
    };
    amqp_table_t table = {4, entries};
    assert_json(json_table(&table),
                "{\"\":null,\"a\\\\x00b\":true,\"\\\\xFFz\":false,\"t\\t\":null}");
}

static void assert_escaped(const char *bytes, size_t len, const char *expected)
{
    char *text = escape_text(bytes, len);
    assert_string_equal(text, expected);
    free(text);
}

static void nothing_that_steers_a_terminal_is_left(void **state)
{
    (void)state;
    assert_escaped("", 0, "");
    assert_escaped("orders.\xC3\xA9", 9, "orders.\xC3\xA9");
    assert_escaped("\x1B[2J\a", 5, "\\x1B[2J\\x07");
    assert_escaped("a\tb\nc\rd\\", 8, "a\\tb\\nc\\rd\\\\");
    assert_escaped("a\0b", 3, "a\\x00b");
    assert_escaped("\x7F", 1, "\\x7F");
    assert_escaped("\xC2\x9B", 2, "\\u{009B}");
    assert_escaped("\xE2\x80\xAE", 3, "\\u{202E}");
    assert_escaped("a\xE2\x80\x8Bz", 5, "a\\u{200B}z");
    assert_escaped("\xC2\xAD\xEF\xBB\xBF", 5, "\\u{00AD}\\u{FEFF}");
    assert_escaped("\xF3\xA0\x81\x81", 4, "\\u{E0041}");
    assert_escaped("\xE6\x97\xA5\xF0\x9F\x98\x80", 7, "\xE6\x97\xA5\xF0\x9F\x98\x80");
    assert_escaped("\xFF\xC3", 2, "\\xFF\\xC3");
    assert_escaped("\xC3(", 2, "\\xC3(");
}

static void assert_size(uint64_t bytes, const char *expected)
{
    char text[SIZE_TEXT_BYTES];
    text_size(bytes, text);
    assert_string_equal(text, expected);
}

static void sizes_have_one_digit_after_the_point(void **state)
{
    (void)state;
    assert_size(0, "0 B");
    assert_size(1023, "1023 B");
    assert_size(1024, "1.0 KiB");
    assert_size(1258291, "1.2 MiB");
    assert_size(1048575, "1.0 MiB");
    assert_size(UINT64_C(10) << 30, "10.0 GiB");
    assert_size(UINT64_MAX, "16.0 EiB");
}

int main(void)
{
    setlocale(LC_CTYPE, "C.UTF-8");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_of_every_width),
        cmocka_unit_test(floats_that_json_has_no_number_for),
        cmocka_unit_test(decimals_keep_their_digits),
        cmocka_unit_test(timestamps_are_times_while_they_can_be),
        cmocka_unit_test(bytes_are_text_if_they_can_be),
        cmocka_unit_test(names_that_are_not_text_are_escaped),
        cmocka_unit_test(nothing_that_steers_a_terminal_is_left),
        cmocka_unit_test(sizes_have_one_digit_after_the_point),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
