#pragma once

/* What has happened in a run, line by line: kept as a hash that two runs of one seed must share,
 * and printed if that was asked for. */

#include <stdbool.h>
#include <stdint.h>

/* Prints the lines too, and those of the proxy's log between them. */
void history_begin(bool prints);
void history_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A line of the proxy's log; it is no part of the hash. */
void history_log(const char *line, int len);
uint64_t history_hash(void);
/* Lines that are not printed are not even written: a tenth of a run's time. */
void history_hash_nothing(void);

/* A promise was broken: tells, and ends the process (see history_on_failure). */
_Noreturn void history_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Who is told of it first. */
void history_on_failure(void (*tell)(const char *text));

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            history_fail(__VA_ARGS__);                                                             \
    } while (0)
