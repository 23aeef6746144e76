#include "config/value.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/utf8.h"
#include "config/hosts.h"
#include "config/shown.h"
#include "config/url.h"

enum { FOUND_MAX = 80, FIELD_MAX = 8, TERM_MAX = 32 };

struct unit {
    const char *suffix;
    uint64_t factor;
};

/* Each list begins with the smallest unit. */
static const struct unit counts[] = {{"", 1}};
static const struct unit durations[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
static const struct unit sizes[] = {{"", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}};

struct units {
    const struct unit *list;
    size_t count;
};

static struct units units_of(enum config_type type)
{
    if (type == CONFIG_DURATION)
        return (struct units){durations, sizeof durations / sizeof durations[0]};
    if (type == CONFIG_SIZE)
        return (struct units){sizes, sizeof sizes / sizeof sizes[0]};
    return (struct units){counts, 1};
}

static void *field_of(const struct config_option *option, struct config *config)
{
    return (char *)config + option->offset;
}

static const void *field_read(const struct config_option *option, const struct config *config)
{
    return (const char *)config + option->offset;
}

static bool is_text(const struct config_option *option)
{
    return option->type == CONFIG_TEXT || option->type == CONFIG_ADDRESS ||
           option->type == CONFIG_HOSTS || option->type == CONFIG_URL;
}

static char **text_of(const struct config_option *option, struct config *config)
{
    ENSURE(option->width == sizeof(char *));
    return field_of(option, config);
}

static const char *text_read(const struct config_option *option, const struct config *config)
{
    return *(char *const *)field_read(option, config);
}

static void number_store(const struct config_option *option, uint64_t number, struct config *config)
{
    void *field = field_of(option, config);
    switch (option->width) {
    case sizeof(uint8_t):
        *(uint8_t *)field = (uint8_t)number;
        return;
    case sizeof(uint16_t):
        *(uint16_t *)field = (uint16_t)number;
        return;
    case sizeof(uint32_t):
        memcpy(field, &(uint32_t){(uint32_t)number}, sizeof(uint32_t));
        return;
    default:
        ENSURE(option->width == sizeof(uint64_t));
        *(uint64_t *)field = number;
    }
}

static uint64_t number_read(const struct config_option *option, const struct config *config)
{
    const void *field = field_read(option, config);
    uint32_t wide;
    switch (option->width) {
    case sizeof(uint8_t):
        return *(const uint8_t *)field;
    case sizeof(uint16_t):
        return *(const uint16_t *)field;
    case sizeof(uint32_t):
        memcpy(&wide, field, sizeof wide);
        return wide;
    default:
        ENSURE(option->width == sizeof(uint64_t));
        return *(const uint64_t *)field;
    }
}

static bool unexpected(char *why, size_t why_size, const char *expected, const char *text)
{
    if (text[0])
        snprintf(why, why_size, "expected %s, found \"%s\"", expected,
                 shown_value(text, FOUND_MAX).text);
    else
        snprintf(why, why_size, "expected %s, found nothing", expected);
    return false;
}

/* A number in its largest unit that keeps it whole. */
static void format_number(const struct config_option *option, uint64_t number, char *out,
                          size_t size)
{
    struct units units = units_of(option->type);
    size_t best = 0;
    for (size_t i = 1; i < units.count && number > 0; i++)
        if (number % units.list[i].factor == 0)
            best = i;
    if (number == 0 && option->words) {
        snprintf(out, size, "%s", option->words);
        return;
    }
    if (number == 0 && option->type == CONFIG_DURATION)
        best = 1;
    snprintf(out, size, "%" PRIu64 "%s", number / units.list[best].factor, units.list[best].suffix);
}

static bool is_word(const struct config_option *option, const char *text)
{
    return option->words && strcmp(text, option->words) == 0;
}

static bool parse_number(const struct config_option *option, const char *text, uint64_t *number)
{
    uint64_t value = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++) {
        uint64_t digit = (uint64_t)(*at - '0');
        if (value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    if (at == text)
        return false;
    struct units units = units_of(option->type);
    for (size_t i = 0; i < units.count; i++) {
        if (strcmp(at, units.list[i].suffix) != 0)
            continue;
        if (value > UINT64_MAX / units.list[i].factor)
            return false;
        *number = value * units.list[i].factor;
        return true;
    }
    *number = 0; /* nothing is nothing in any unit */
    return value == 0 && *at == '\0';
}

static bool set_number(const struct config_option *option, const char *text, struct config *config,
                       char *why, size_t why_size)
{
    uint64_t number = 0;
    if (is_word(option, text) ||
        (parse_number(option, text, &number) && number >= option->min && number <= option->max)) {
        number_store(option, number, config);
        return true;
    }
    const char *what = option->type == CONFIG_PORT       ? "a port"
                       : option->type == CONFIG_DURATION ? "a duration in ms, s, m or h"
                       : option->type == CONFIG_SIZE     ? "a size in KiB, MiB or GiB"
                                                         : "a number";
    char min[TERM_MAX], max[TERM_MAX], expected[128];
    format_number(option, option->min, min, sizeof min);
    format_number(option, option->max, max, sizeof max);
    snprintf(expected, sizeof expected, "%s%s%s from %s to %s", option->words ? option->words : "",
             option->words ? " or " : "", what, min, max);
    return unexpected(why, why_size, expected, text);
}

static bool set_bool(const struct config_option *option, const char *text, struct config *config,
                     char *why, size_t why_size)
{
    bool yes = strcmp(text, "yes") == 0;
    if (!yes && strcmp(text, "no") != 0)
        return unexpected(why, why_size, "yes or no", text);
    number_store(option, yes, config);
    return true;
}

static bool set_enum(const struct config_option *option, const char *text, struct config *config,
                     char *why, size_t why_size)
{
    const char *word = option->words;
    size_t text_len = strlen(text);
    for (uint64_t position = 0; *word; position++) {
        size_t len = strcspn(word, " ");
        if (len == text_len && memcmp(word, text, len) == 0) {
            number_store(option, position, config);
            return true;
        }
        word += len + (word[len] == ' ');
    }
    char expected[64];
    snprintf(expected, sizeof expected, "one of: %s", option->words);
    return unexpected(why, why_size, expected, text);
}

static bool has_control(const char *text)
{
    uint32_t character = ' ';
    for (; *text && !utf8_is_control(character);)
        text += utf8_next(text, &character);
    return utf8_is_control(character);
}

static bool text_fits(const struct config_option *option, const char *text, char *why,
                      size_t why_size)
{
    unsigned char address[sizeof(struct in6_addr)];
    unsigned count;
    struct config_upstream *upstreams;
    switch (option->type) {
    case CONFIG_ADDRESS:
        if (inet_pton(AF_INET, text, address) == 1 || inet_pton(AF_INET6, text, address) == 1)
            return true;
        return unexpected(why, why_size, "an IPv4 or IPv6 address", text);
    case CONFIG_HOSTS:
        return hosts_are_valid(text) ||
               unexpected(why, why_size, "names, .example or *, separated by commas", text);
    case CONFIG_URL:
        upstreams = url_parse(text, &count, why, why_size);
        if (!upstreams)
            return false;
        config_upstreams_free(upstreams, count);
        return true;
    default:
        if (text[0] == '"' || text[0] == '\'')
            return unexpected(why, why_size, "a value without quotes", text);
        if (strstr(text, "://"))
            return unexpected(why, why_size, "a file\'s name", text);
        if (has_control(text))
            return unexpected(why, why_size, "a value without control characters", text);
        return strlen(text) >= option->min || unexpected(why, why_size, "a value", text);
    }
}

bool value_parse(const struct config_option *option, const char *text, struct config *config,
                 char *why, size_t why_size)
{
    if (option->type == CONFIG_BOOL)
        return set_bool(option, text, config, why, why_size);
    if (option->type == CONFIG_ENUM)
        return set_enum(option, text, config, why, why_size);
    if (!is_text(option))
        return set_number(option, text, config, why, why_size);
    if (!text_fits(option, text, why, why_size))
        return false;
    char *copy = strdup(text);
    ENSURE(copy);
    free(*text_of(option, config));
    *text_of(option, config) = copy;
    return true;
}

static void print_word(const char *words, uint64_t position, FILE *out)
{
    while (position-- > 0)
        words = strchr(words, ' ') + 1;
    fprintf(out, "%.*s", (int)strcspn(words, " "), words);
}

void value_print(const struct config_option *option, const struct config *config, FILE *out)
{
    char number[TERM_MAX];
    switch (option->type) {
    case CONFIG_TEXT:
    case CONFIG_ADDRESS:
    case CONFIG_HOSTS:
        fputs(text_read(option, config), out);
        return;
    case CONFIG_URL:
        url_print(text_read(option, config), out);
        return;
    case CONFIG_BOOL:
        fputs(number_read(option, config) ? "yes" : "no", out);
        return;
    case CONFIG_ENUM:
        print_word(option->words, number_read(option, config), out);
        return;
    case CONFIG_PORT:
    case CONFIG_COUNT:
    case CONFIG_DURATION:
    case CONFIG_SIZE:
        format_number(option, number_read(option, config), number, sizeof number);
        fputs(number, out);
        return;
    }
}

bool value_equal(const struct config_option *option, const struct config *a, const struct config *b)
{
    if (is_text(option))
        return strcmp(text_read(option, a), text_read(option, b)) == 0;
    return number_read(option, a) == number_read(option, b);
}

void value_swap(const struct config_option *option, struct config *a, struct config *b)
{
    unsigned char kept[FIELD_MAX];
    ENSURE(option->width <= sizeof kept);
    memcpy(kept, field_of(option, a), option->width);
    memcpy(field_of(option, a), field_of(option, b), option->width);
    memcpy(field_of(option, b), kept, option->width);
}

void value_free(const struct config_option *option, struct config *config)
{
    if (!is_text(option))
        return;
    free(*text_of(option, config));
    *text_of(option, config) = NULL;
}
