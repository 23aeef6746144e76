#pragma once

/* Bytes of anybody's as text that is safe to show. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A copy in which nothing can steer a terminal or break a line of tab-separated fields: control
 * characters, line separators, marks that turn the reading direction, what nobody can see, and
 * bytes that are not UTF-8 become \n \t \r \xNN \u{NNNN}, and a backslash is doubled. The caller
 * frees it. */
char *escape_text(const void *bytes, size_t len);

/* True for characters that escape_text would write as \u{NNNN}. */
bool escape_is_due(uint32_t codepoint);
