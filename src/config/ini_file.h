#pragma once

/* A file in INI syntax, read with inih, with the number of each line and with every mistake told:
 * inih alone stops counting at the first one, cuts long lines and drops what is behind a [section]
 * without a word.
 *
 * Lines are `key = value` or `[section]`. A # or ; begins a comment at the start of a line or
 * after white space. Lines are at most INI_FILE_LINE_MAX bytes long, and none continues another. */

#include <stdio.h>

enum { INI_FILE_LINE_MAX = 4096 };

/* Called in the order of the file; strings live for the call alone. */
struct ini_events {
    /* `name` is NULL for a section that could not be read: whose are the keys behind it? */
    void (*section)(void *arg, unsigned line, const char *name);
    void (*value)(void *arg, unsigned line, const char *key, const char *value);
    void (*mistake)(void *arg, unsigned line, const char *what); /* line 0: the file itself */
    void *arg;
};

void ini_file_read(FILE *file, const struct ini_events *events);
