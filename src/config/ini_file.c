#include "config/ini_file.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <ini.h>

struct reader {
    FILE *file;
    const struct ini_events *events;
    unsigned line;
    char *buffer; /* of getline */
    size_t buffer_size;
};

static void mistake(struct reader *reader, const char *what)
{
    reader->events->mistake(reader->events->arg, reader->line, what);
}

/* Whether nothing but white space and a comment is left of the line. */
static bool nothing_left(const char *text)
{
    size_t blank = strspn(text, " \t\r\n");
    return text[blank] == '\0' || (blank > 0 && strchr(";#", text[blank]));
}

static void read_section(struct reader *reader, char *text)
{
    char *name = text + 1 + strspn(text + 1, " \t");
    char *end = strchr(name, ']');
    if (!end || !nothing_left(end + 1)) {
        mistake(reader,
                end ? "expected nothing behind [section]" : "expected ] behind the section");
        reader->events->section(reader->events->arg, reader->line, NULL);
        return;
    }
    while (end > name && isblank((unsigned char)end[-1]))
        end--;
    *end = '\0';
    reader->events->section(reader->events->arg, reader->line, name);
}

/* Some editors begin a file with a byte order mark. */
static char *past_mark(const struct reader *reader)
{
    static const char mark[] = "\xef\xbb\xbf";
    bool marked = reader->line == 1 && strncmp(reader->buffer, mark, sizeof mark - 1) == 0;
    return reader->buffer + (marked ? sizeof mark - 1 : 0);
}

/* inih's fgets. Sections and lines that it would misread are taken here, and it is given an empty
 * line for them. */
static char *next_line(char *to, int size, void *arg)
{
    struct reader *reader = arg;
    ssize_t len = getline(&reader->buffer, &reader->buffer_size, reader->file);
    if (len < 0)
        return NULL;
    reader->line++;
    char *text = past_mark(reader);
    text += strspn(text, " \t\r\n");
    bool pass = false;
    if ((size_t)len != strlen(reader->buffer))
        mistake(reader, "a NUL byte in the line");
    else if (text[0] == '\0' || strchr(";#", text[0]))
        pass = false;
    else if (len >= size)
        mistake(reader, "the line is too long");
    else if (text[0] == '[')
        read_section(reader, text);
    else if (text[0] == '=' || !strpbrk(text, "=:"))
        mistake(reader, "expected key = value");
    else
        pass = true;
    snprintf(to, (size_t)size, "%s", pass ? text : "\n");
    return to;
}

static int on_value(void *arg, const char *section, const char *key, const char *value)
{
    (void)section; /* known from read_section */
    struct reader *reader = arg;
    reader->events->value(reader->events->arg, reader->line, key, value);
    return 1;
}

static char comment_prefixes[] = ";#";

void ini_file_read(FILE *file, const struct ini_events *events)
{
    struct reader reader = {.file = file, .events = events};
    ini_max_line = INI_FILE_LINE_MAX + (int)sizeof "\r\n";
    ini_allow_multiline = false; /* an indented key is a key, not more of the value above */
    ini_inline_comment_prefixes = comment_prefixes;
    errno = 0;
    int first_bad = ini_parse_stream(next_line, &reader, on_value, &reader);
    if (ferror(file)) {
        reader.line = 0;
        mistake(&reader, strerror(errno));
    } else if (first_bad != 0) {
        reader.line = first_bad > 0 ? (unsigned)first_bad : 0;
        mistake(&reader, "expected key = value");
    }
    free(reader.buffer);
}
