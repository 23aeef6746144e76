#pragma once

/* Structured log lines on standard error: logfmt or JSON, one line a call, written with one
 * write(2).
 *
 *   LOG(LOG_INFO, "upstream_connected", LOG_T("user", user), LOG_N("port", port));
 *
 *   ts=2024-05-17T09:30:00.123456Z level=info event=upstream_connected user=shop port=5672
 *
 * Nobody waits for whoever reads them: lines that he, or a disk that is full, does not take are
 * lost, and log_lost says how many.
 *
 * Values are quoted and escaped as the format needs; a byte that is not UTF-8 becomes U+FFFD.
 * A line is at most 4 KiB long (PIPE_BUF, so that a pipe takes it in one piece) and one value about
 * 1 KiB: longer ones end in an ellipsis, and fields that do not fit are left out. Passwords never
 * go in. Any thread may log. */

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_LOGFMT, LOG_JSON };

void log_init(enum log_level level, enum log_format format);
bool log_enabled(enum log_level level);

/* One field: made by the LOG_ macros below, which keep the call type-safe. */
struct log_field {
    const char *key;
    enum { LOG_FIELD_TEXT, LOG_FIELD_NUMBER } type;
    const char *text; /* may be NULL: the field is left out */
    long long number;
};

#define LOG_T(k, v) ((struct log_field){.key = (k), .type = LOG_FIELD_TEXT, .text = (v)})
#define LOG_N(k, v)                                                                                \
    ((struct log_field){.key = (k), .type = LOG_FIELD_NUMBER, .number = (long long)(v)})

void log_write(enum log_level level, const char *event, const struct log_field *fields,
               unsigned count);

#define LOG(level, event, ...)                                                                     \
    do {                                                                                           \
        if (log_enabled(level)) {                                                                  \
            const struct log_field log_fields_[] = {__VA_ARGS__};                                  \
            log_write(level, event, log_fields_, sizeof log_fields_ / sizeof log_fields_[0]);      \
        }                                                                                          \
    } while (0)

/* What a client, or a queue full of bad messages, can cause again and again: at most this many
 * lines a second for each place in the code. The others are counted, and told as one line:
 * log_suppressed, with `of` and `lines`. */
enum { LOG_OFTEN_LINES = 10 };

struct log_limit {
    const char *event;
    uint64_t since_ms;
    unsigned lines, suppressed;
    struct log_limit *next; /* of all that were ever used */
};

bool log_allowed(struct log_limit *, const char *event);
/* Tells what was suppressed, once the second is over, and what was lost; to be called now and then.
 */
void log_tell_suppressed(void);

#define LOG_OFTEN(level, name, ...)                                                                \
    do {                                                                                           \
        static struct log_limit log_limit_;                                                        \
        if (log_enabled(level) && log_allowed(&log_limit_, name))                                  \
            LOG(level, name, __VA_ARGS__);                                                         \
    } while (0)
