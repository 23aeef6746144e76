#include "base/log.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/stat.h>
#include <sys/uio.h>

#include "base/assert.h"
#include "base/log_output.h"
#include "base/utf8.h"

enum {
    LINE_BYTES = PIPE_BUF, /* what a pipe takes in one piece, whoever else writes to it */
    TAIL_BYTES = 8,        /* kept free for an ellipsis, a quote, a brace and the line's end */
    VALUE_BYTES = 1024,    /* of one value, so that those behind it have room */
    ESCAPE_MAX = 6,        /* \u001f */
};

static const char ellipsis[] = "\xe2\x80\xa6";
static const char *const level_names[] = {"debug", "info", "warn", "error"};

/* A reload on the loop's thread sets these while others log. */
static _Atomic enum log_level least_level = LOG_INFO;
static _Atomic enum log_format line_format = LOG_LOGFMT;
static _Atomic bool
    to_journal; /* standard error is the journal: it reads a priority (sd-daemon(3)) */

struct line {
    enum log_format format;
    size_t len;
    char text[LINE_BYTES];
};

/* JOURNAL_STREAM has device and inode of what systemd has connected (systemd.exec(5)). */
static bool is_journal(int fd)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat stat;
    unsigned long long device, inode;
    return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && fstat(fd, &stat) == 0 &&
           stat.st_dev == device && stat.st_ino == inode;
}

void log_init(enum log_level level, enum log_format format)
{
    atomic_store_explicit(&to_journal, is_journal(STDERR_FILENO), memory_order_relaxed);
    atomic_store_explicit(&least_level, level, memory_order_relaxed);
    atomic_store_explicit(&line_format, format, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
    return level >= atomic_load_explicit(&least_level, memory_order_relaxed);
}

/* None is left once a value's ellipsis has gone into the tail. */
static size_t room(const struct line *line)
{
    return line->len < LINE_BYTES - TAIL_BYTES ? LINE_BYTES - TAIL_BYTES - line->len : 0;
}

/* For the tail too, which room() does not count. */
static void add(struct line *line, const char *text, size_t len)
{
    ENSURE(len <= LINE_BYTES - line->len);
    memcpy(line->text + line->len, text, len);
    line->len += len;
}

static bool needs_quotes(const char *value)
{
    if (!*value)
        return true;
    while (*value) {
        uint32_t character;
        value += utf8_next(value, &character);
        if (utf8_is_control(character) || character == UTF8_REPLACEMENT || character == ' ' ||
            character == '"' || character == '=' || character == '\\')
            return true;
    }
    return false;
}

/* One character as it stands between quotes, in JSON's way, which logfmt has too. */
static size_t escape(char out[ESCAPE_MAX + 1], uint32_t character, const char *at, size_t len)
{
    static const char shorts[] = "\"\"\\\\\nn\rr\tt"; /* pairs: what it is, and its escape */
    for (size_t i = 0; i < sizeof shorts - 1; i += 2) {
        if (character == (unsigned char)shorts[i]) {
            out[0] = '\\';
            out[1] = shorts[i + 1];
            return 2;
        }
    }
    if (utf8_is_control(character) || (character == UTF8_REPLACEMENT && len == 1))
        return (size_t)snprintf(out, ESCAPE_MAX + 1, "\\u%04x", character);
    memcpy(out, at, len);
    return len;
}

/* A value too long for the line, or for one value, ends in an ellipsis. */
static void add_value(struct line *line, const char *value)
{
    bool quoted = line->format == LOG_JSON || needs_quotes(value);
    size_t limit = room(line) < VALUE_BYTES ? room(line) : VALUE_BYTES;
    size_t start = line->len;
    if (quoted)
        add(line, "\"", 1);
    while (*value) {
        char out[ESCAPE_MAX + 1];
        uint32_t character;
        size_t len = utf8_next(value, &character);
        size_t out_len = quoted ? escape(out, character, value, len) : len;
        if (out_len > limit - (line->len - start)) {
            add(line, ellipsis, sizeof ellipsis - 1);
            break;
        }
        add(line, quoted ? out : value, out_len);
        value += len;
    }
    if (quoted)
        add(line, "\"", 1);
}

/* Also makes sure that `value_len` bytes fit behind it; false if they do not. */
static bool add_key(struct line *line, const char *key, size_t value_len)
{
    bool json = line->format == LOG_JSON, first = line->len == 0;
    size_t len = strlen(key);
    if (room(line) < len + value_len + sizeof ",\"\":" - 1)
        return false;
    if (json)
        add(line, first ? "{\"" : ",\"", 2);
    else if (!first)
        add(line, " ", 1);
    add(line, key, len);
    if (json)
        add(line, "\":", 2);
    else
        add(line, "=", 1);
    return true;
}

static void add_number(struct line *line, const char *key, long long number)
{
    char text[24];
    size_t len = (size_t)snprintf(text, sizeof text, "%lld", number);
    if (add_key(line, key, len))
        add(line, text, len);
}

static void add_text(struct line *line, const char *key, const char *value)
{
    if (value && add_key(line, key, sizeof "\"" - 1))
        add_value(line, value);
}

static void add_time(struct line *line)
{
    struct timespec now;
    struct tm date;
    char day[32], text[64];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &date);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &date);
    snprintf(text, sizeof text, "%s.%06ldZ", day, now.tv_nsec / 1000);
    add_text(line, "ts", text);
}

/* A log that cannot be written has nobody to complain to. */
static void write_line(enum log_level level, struct line *line)
{
    static const char *const priorities[] = {"<7>", "<6>", "<4>", "<3>"};
    bool told = atomic_load_explicit(&to_journal, memory_order_relaxed);
    struct iovec parts[] = {{(char *)priorities[level], told ? 3 : 0}, {line->text, line->len}};
    log_output_write(parts);
}

void log_write(enum log_level level, const char *event, const struct log_field *fields,
               unsigned count)
{
    struct line line;
    line.format = atomic_load_explicit(&line_format, memory_order_relaxed);
    line.len = 0;
    ENSURE(level <= LOG_ERROR && event);
    int saved_errno = errno;
    add_time(&line);
    add_text(&line, "level", level_names[level]);
    add_text(&line, "event", event);
    for (unsigned i = 0; i < count; i++) {
        if (fields[i].type == LOG_FIELD_NUMBER)
            add_number(&line, fields[i].key, fields[i].number);
        else
            add_text(&line, fields[i].key, fields[i].text);
    }
    if (line.format == LOG_JSON)
        add(&line, "}", 1);
    add(&line, "\n", 1);
    write_line(level, &line);
    errno = saved_errno;
}

/* ---- what comes often ---- */

enum { LIMIT_MS = 1000 };

static pthread_mutex_t limits_lock = PTHREAD_MUTEX_INITIALIZER;
static struct log_limit *limits;

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void begin_second(struct log_limit *limit, uint64_t now)
{
    if (limit->suppressed > 0)
        LOG(LOG_WARN, "log_suppressed", LOG_T("of", limit->event),
            LOG_N("lines", limit->suppressed));
    limit->since_ms = now;
    limit->lines = limit->suppressed = 0;
}

bool log_allowed(struct log_limit *limit, const char *event)
{
    uint64_t now = now_ms();
    pthread_mutex_lock(&limits_lock);
    if (!limit->event) {
        limit->event = event;
        limit->next = limits;
        limits = limit;
    }
    if (now - limit->since_ms >= LIMIT_MS)
        begin_second(limit, now);
    bool allowed = limit->lines < LOG_OFTEN_LINES;
    if (allowed)
        limit->lines++;
    else
        limit->suppressed++;
    pthread_mutex_unlock(&limits_lock);
    return allowed;
}

void log_tell_suppressed(void)
{
    uint64_t now = now_ms();
    pthread_mutex_lock(&limits_lock);
    for (struct log_limit *limit = limits; limit; limit = limit->next)
        if (limit->suppressed > 0 && now - limit->since_ms >= LIMIT_MS)
            begin_second(limit, now);
    pthread_mutex_unlock(&limits_lock);
    uint64_t lost = log_output_lost();
    if (lost > 0)
        LOG(LOG_WARN, "log_lost", LOG_N("lines", lost),
            LOG_T("reason", "standard error did not take them"));
}
