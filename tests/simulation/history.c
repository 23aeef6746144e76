#include "history.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agenda.h"

enum { EXIT_FAILED = 3, EVENTS = 64 };

static bool is_printed, is_hashed = true;
static uint64_t hash;
static void (*tell_failure)(const char *text);

void history_hash_nothing(void)
{
    is_hashed = false;
}

void history_begin(bool prints)
{
    is_printed = prints;
    hash = 0xcbf29ce484222325; /* FNV-1a */
}

static void add(const char *line)
{
    for (; *line; line++)
        hash = (hash ^ (uint8_t)*line) * 0x100000001b3;
}

void history_note(const char *format, ...)
{
    char line[512];
    if (!is_printed && !is_hashed)
        return;
    uint64_t now = agenda_now_us();
    int at = snprintf(line, sizeof line, "%llu.%06llu ", (unsigned long long)(now / 1000000),
                      (unsigned long long)(now % 1000000));
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + at, sizeof line - (size_t)at, format, arguments);
    va_end(arguments);
    add(line);
    if (is_printed)
        puts(line);
}

/* How often each event was said in this second. */
static void note_said(const char *line, size_t len)
{
    enum { SECOND_US = 1000000, MOST = 40 };
    static struct {
        uint64_t second, hash;
        unsigned count;
    } said[EVENTS];
    static const char mark[] = "event=";
    const char *name = memmem(line, len, mark, sizeof mark - 1);
    uint64_t second = agenda_now_us() / SECOND_US, sum = 0;
    for (; name && *name != ' ' && name < line + len; name++)
        sum = sum * 31 + (uint8_t)*name;
    unsigned i = (unsigned)(sum % EVENTS);
    if (said[i].second != second || said[i].hash != sum)
        said[i].count = 0;
    said[i].second = second;
    said[i].hash = sum;
    if (++said[i].count > MOST)
        history_fail("P5: more than %d lines of one event in a second: %.*s", MOST, (int)len, line);
}

void history_log(const char *line, int len)
{
    note_said(line, (size_t)len);
    if (is_printed)
        printf("    | %.*s", len, line);
    if (memmem(line, (size_t)len, "event=unbalanced", 16))
        history_fail("the counters do not agree with what they count: %.*s", len, line);
}

uint64_t history_hash(void)
{
    return hash;
}

void history_on_failure(void (*tell)(const char *text))
{
    tell_failure = tell;
}

void history_fail(const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    text[strcspn(text, "\n")] = 0; /* of a line of the log */
    if (is_printed)
        printf("BROKEN %s\n", text);
    fflush(stdout);
    if (tell_failure)
        tell_failure(text);
    syscall(SYS_exit_group, EXIT_FAILED); /* _exit is the proxy's, see machine.c */
    __builtin_unreachable();
}
