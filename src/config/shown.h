#pragma once

/* What somebody has typed, as far as a message may show it: it may be a URL with a password that
 * has come to a wrong place, and have bytes in it that a terminal obeys. */

#include <stddef.h>

enum { SHOWN_MAX = 512 }; /* bytes */

struct shown {
    char text[SHOWN_MAX + sizeof "..."];
};

/* The name of a section, key, variable or option, as far as it can be one: what is behind letters,
 * digits, -, _ and . is not shown. */
struct shown shown_name(const char *text, size_t len);
/* A value or a file's name, at most `max` bytes of it. */
struct shown shown_value(const char *text, size_t max);
