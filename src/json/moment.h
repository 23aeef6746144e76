#pragma once

/* Times and spans of time, as people and JSON write them. All times are microseconds since 1970
 * UTC. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MOMENT_TEXT_BYTES = 32 };

/* Takes
 *   2026-01-02T03:04:05Z   RFC 3339, also with a fraction, an offset (+02:00), a space for the T;
 *                          without seconds, or without a zone (UTC)
 *   2026-01-02             midnight UTC
 *   @1767323045            seconds since 1970, also with a fraction
 *   now
 *   15m  -15m  1h30m  "2 d ago"   so long before now: s, m, h, d, w
 * False if it is none of these, or lies before 1970. */
bool moment_parse(const char *text, uint64_t now_us, uint64_t *at_us);

/* RFC 3339 in UTC with microseconds. False if the year has more than four digits. */
bool moment_format(uint64_t at_us, char text[static MOMENT_TEXT_BYTES]);

/* How long ago, in its two largest units: "3m 12s". "0s" for what has yet to come. */
void moment_age(uint64_t at_us, uint64_t now_us, char text[static MOMENT_TEXT_BYTES]);
