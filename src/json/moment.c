#include "json/moment.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const uint64_t SECOND_US = 1000000;

/* Digits after the point, cut to microseconds. */
static bool take_fraction(const char **text, uint64_t *us)
{
    *us = 0;
    if (**text != '.')
        return true;
    const char *at = *text + 1;
    uint64_t place = SECOND_US;
    while (isdigit((unsigned char)*at)) {
        place /= 10;
        *us += (uint64_t)(*at++ - '0') * place;
    }
    bool some = at > *text + 1;
    *text = at;
    return some;
}

static bool take_digits(const char **text, unsigned count, int *number)
{
    *number = 0;
    for (unsigned i = 0; i < count; i++, (*text)++) {
        if (!isdigit((unsigned char)**text))
            return false;
        *number = *number * 10 + (**text - '0');
    }
    return true;
}

static bool take(const char **text, char wanted)
{
    return **text == wanted ? ((*text)++, true) : false;
}

/* "Z", "+hh:mm" or nothing, at the end. */
static bool take_zone(const char **text, int *offset_s)
{
    *offset_s = 0;
    if (take(text, 'Z') || take(text, 'z') || **text == '\0')
        return **text == '\0';
    int sign = **text == '-' ? -1 : 1, hours, minutes;
    if (!take(text, '+') && !take(text, '-'))
        return false;
    if (!take_digits(text, 2, &hours) || !take(text, ':') || !take_digits(text, 2, &minutes))
        return false;
    *offset_s = sign * (hours * 3600 + minutes * 60);
    return **text == '\0' && hours < 24 && minutes < 60;
}

static bool take_clock(const char **text, struct tm *tm)
{
    if (!take_digits(text, 2, &tm->tm_hour) || !take(text, ':') ||
        !take_digits(text, 2, &tm->tm_min))
        return false;
    if (take(text, ':') && !take_digits(text, 2, &tm->tm_sec))
        return false;
    return tm->tm_hour < 24 && tm->tm_min < 60 && tm->tm_sec <= 60; /* 60: a leap second */
}

static bool take_date(const char **text, struct tm *tm)
{
    if (!take_digits(text, 4, &tm->tm_year) || !take(text, '-') ||
        !take_digits(text, 2, &tm->tm_mon) || !take(text, '-') ||
        !take_digits(text, 2, &tm->tm_mday))
        return false;
    tm->tm_year -= 1900;
    tm->tm_mon -= 1;
    /* timegm makes 2 March of 30 February; a date that it changes is none. */
    struct tm day = {.tm_year = tm->tm_year, .tm_mon = tm->tm_mon, .tm_mday = tm->tm_mday};
    timegm(&day);
    return day.tm_mon == tm->tm_mon && day.tm_mday == tm->tm_mday;
}

static bool parse_calendar(const char *text, uint64_t *at_us)
{
    struct tm tm = {0};
    uint64_t fraction_us = 0;
    int offset_s = 0;
    if (!take_date(&text, &tm))
        return false;
    if (*text != '\0') {
        if (!take(&text, 'T') && !take(&text, 't') && !take(&text, ' '))
            return false;
        if (!take_clock(&text, &tm) || !take_fraction(&text, &fraction_us) ||
            !take_zone(&text, &offset_s))
            return false;
    }
    time_t at_s = timegm(&tm) - offset_s;
    if (at_s < 0)
        return false;
    *at_us = (uint64_t)at_s * SECOND_US + fraction_us;
    return true;
}

static bool take_count(const char **text, uint64_t *count)
{
    if (!isdigit((unsigned char)**text))
        return false;
    for (*count = 0; isdigit((unsigned char)**text); (*text)++) {
        if (*count >= UINT64_MAX / SECOND_US / 10) /* a digit more would not fit in microseconds */
            return false;
        *count = *count * 10 + (uint64_t)(**text - '0');
    }
    return true;
}

static bool parse_seconds(const char *text, uint64_t *at_us)
{
    uint64_t seconds, fraction_us;
    if (!take_count(&text, &seconds) || !take_fraction(&text, &fraction_us) || *text != '\0')
        return false;
    *at_us = seconds * SECOND_US + fraction_us;
    return true;
}

static uint64_t unit_seconds(char unit)
{
    switch (unit) {
    case 's':
        return 1;
    case 'm':
        return 60;
    case 'h':
        return 3600;
    case 'd':
        return 86400;
    case 'w':
        return UINT64_C(7) * 86400;
    default:
        return 0;
    }
}

static bool parse_ago(const char *text, uint64_t now_us, uint64_t *at_us)
{
    uint64_t span_s = 0;
    if (*text == '-')
        text++;
    do {
        uint64_t count, unit;
        if (!take_count(&text, &count))
            return false;
        text += strspn(text, " ");
        unit = unit_seconds(*text);
        if (unit == 0 || __builtin_mul_overflow(count, unit, &count) ||
            __builtin_add_overflow(span_s, count, &span_s))
            return false;
        text++;
        text += strspn(text, " ");
    } while (*text != '\0' && strcmp(text, "ago") != 0);
    if (span_s > now_us / SECOND_US)
        return false;
    *at_us = now_us - span_s * SECOND_US;
    return true;
}

bool moment_parse(const char *text, uint64_t now_us, uint64_t *at_us)
{
    if (strcmp(text, "now") == 0) {
        *at_us = now_us;
        return true;
    }
    if (*text == '@')
        return parse_seconds(text + 1, at_us);
    return parse_calendar(text, at_us) || parse_ago(text, now_us, at_us);
}

bool moment_format(uint64_t at_us, char text[static MOMENT_TEXT_BYTES])
{
    static const uint64_t year_10000_s = UINT64_C(253402300800);
    if (at_us / SECOND_US >= year_10000_s)
        return false;
    time_t at_s = (time_t)(at_us / SECOND_US);
    struct tm tm;
    gmtime_r(&at_s, &tm);
    size_t len = strftime(text, MOMENT_TEXT_BYTES, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + len, MOMENT_TEXT_BYTES - len, ".%06uZ", (unsigned)(at_us % SECOND_US));
    return true;
}

void moment_age(uint64_t at_us, uint64_t now_us, char text[static MOMENT_TEXT_BYTES])
{
    unsigned long long s = now_us > at_us ? (now_us - at_us) / SECOND_US : 0;
    if (s < 60)
        snprintf(text, MOMENT_TEXT_BYTES, "%llus", s);
    else if (s < 3600)
        snprintf(text, MOMENT_TEXT_BYTES, "%llum %llus", s / 60, s % 60);
    else if (s < 86400)
        snprintf(text, MOMENT_TEXT_BYTES, "%lluh %llum", s / 3600, s / 60 % 60);
    else
        snprintf(text, MOMENT_TEXT_BYTES, "%llud %lluh", s / 86400, s / 3600 % 24);
}
