#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "json/moment.h"

/* 2026-01-02T03:04:05Z */
#define AT_S UINT64_C(1767323045)
#define US   UINT64_C(1000000)

static const uint64_t now_us = AT_S * US + 250000;

static void assert_moment(const char *text, uint64_t expected_us)
{
    uint64_t at_us = 0;
    if (!moment_parse(text, now_us, &at_us))
        fail_msg("\"%s\" was refused", text);
    if (at_us != expected_us)
        fail_msg("\"%s\" is %llu, not %llu", text, (unsigned long long)at_us,
                 (unsigned long long)expected_us);
}

static void calendar_times_are_taken(void **state)
{
    (void)state;
    assert_moment("2026-01-02T03:04:05Z", AT_S * US);
    assert_moment("2026-01-02t03:04:05z", AT_S * US);
    assert_moment("2026-01-02 03:04:05Z", AT_S * US);
    assert_moment("2026-01-02T03:04:05", AT_S * US);
    assert_moment("2026-01-02 03:04", (AT_S - 5) * US);
    assert_moment("2026-01-02T03:04:05.25Z", AT_S * US + 250000);
    assert_moment("2026-01-02T03:04:05.123456789Z", AT_S * US + 123456);
    assert_moment("2026-01-02T05:04:05+02:00", AT_S * US);
    assert_moment("2026-01-01T21:34:05.5-05:30", AT_S * US + 500000);
    assert_moment("2026-01-02", (AT_S - 3 * 3600 - 4 * 60 - 5) * US);
    assert_moment("2024-02-29", UINT64_C(1709164800) * US);
    assert_moment("1970-01-01", 0);
}

static void seconds_are_taken(void **state)
{
    (void)state;
    assert_moment("@1767323045", AT_S * US);
    assert_moment("@1767323045.000001", AT_S * US + 1);
    assert_moment("@0", 0);
    assert_moment("@1000000000000", UINT64_C(1000000000000) * US);
}

static void spans_count_back_from_now(void **state)
{
    (void)state;
    assert_moment("now", now_us);
    assert_moment("0s", now_us);
    assert_moment("15m", now_us - 900 * US);
    assert_moment("-15m", now_us - 900 * US);
    assert_moment("2h ago", now_us - 7200 * US);
    assert_moment("2 h ago", now_us - 7200 * US);
    assert_moment("1h30m", now_us - 5400 * US);
    assert_moment("1d 2h", now_us - 93600 * US);
    assert_moment("1w", now_us - 604800 * US);
}

static void what_is_no_time_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",
        "yesterday",
        "15",
        "m",
        "15x",
        "15m later",
        "--15m",
        "- 15m",
        "ago",
        "@",
        "@-1",
        "@1.",
        "@1x",
        "@99999999999999999",
        "2026-13-01",
        "2026-00-01",
        "2026-02-30",
        "2026-01-32",
        "2026-01-02T",
        "2026-01-02T24:00:00Z",
        "2026-01-02T03:60:00Z",
        "2026-01-02T03:04:61Z",
        "2026-01-02T03:04:05.Z",
        "2026-01-02T03:04:05ZZ",
        "2026-01-02T03:04:05+2:00",
        "2026-01-02T03:04:05+24:00",
        "26-01-02",
        "1969-12-31",
        "1970-01-01T00:00:00+01:00",
        "100000w",
        "99999999999999999999s",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        uint64_t at_us;
        if (moment_parse(wrong[i], now_us, &at_us))
            fail_msg("\"%s\" was taken", wrong[i]);
    }
}

static void times_are_written_in_utc_with_microseconds(void **state)
{
    (void)state;
    char text[MOMENT_TEXT_BYTES];
    assert_true(moment_format(AT_S * US + 42, text));
    assert_string_equal(text, "2026-01-02T03:04:05.000042Z");
    assert_true(moment_format(UINT64_C(253402300799999999), text));
    assert_string_equal(text, "9999-12-31T23:59:59.999999Z");
    assert_false(moment_format(UINT64_C(253402300800000000), text));
    assert_false(moment_format(UINT64_MAX, text));
}

static void assert_age(uint64_t age_s, const char *expected)
{
    char text[MOMENT_TEXT_BYTES];
    moment_age(now_us - age_s * US, now_us, text);
    assert_string_equal(text, expected);
}

static void ages_have_their_two_largest_units(void **state)
{
    (void)state;
    char text[MOMENT_TEXT_BYTES];
    assert_age(0, "0s");
    assert_age(59, "59s");
    assert_age(60, "1m 0s");
    assert_age(192, "3m 12s");
    assert_age(3599, "59m 59s");
    assert_age(3600, "1h 0m");
    assert_age(86399, "23h 59m");
    assert_age(86400, "1d 0h");
    assert_age(100 * 86400 + 7200, "100d 2h");
    moment_age(now_us + US, now_us, text);
    assert_string_equal(text, "0s");
    moment_age(0, UINT64_MAX, text);
    assert_string_equal(text, "213503982d 8h");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calendar_times_are_taken),
        cmocka_unit_test(seconds_are_taken),
        cmocka_unit_test(spans_count_back_from_now),
        cmocka_unit_test(what_is_no_time_is_refused),
        cmocka_unit_test(times_are_written_in_utc_with_microseconds),
        cmocka_unit_test(ages_have_their_two_largest_units),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
