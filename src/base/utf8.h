#pragma once

/* Characters of a text that may have any bytes in it. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { UTF8_REPLACEMENT = 0xfffd }; /* U+FFFD stands for a byte that is not UTF-8 */

/* The character at `text` and its length in bytes; 1 and UTF8_REPLACEMENT if it is not UTF-8 as
 * RFC 3629 has it (no overlong forms, no surrogates, nothing above U+10FFFF). The NUL at the end is
 * a character, and nothing is read behind it. */
size_t utf8_next(const char *text, uint32_t *character);
/* C0, DEL and C1; the line and paragraph separators, and what turns the reading direction (UAX 9,
 * section 2): what a terminal, or a reader of lines, might obey. */
bool utf8_is_control(uint32_t character);
