#include "config/shown.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/utf8.h"

enum { NAME_SHOWN = 60 }; /* bytes; no known name comes near it */

static bool is_of_name(char c)
{
    return isalnum((unsigned char)c) || (c != '\0' && strchr("-._", c));
}

struct shown shown_name(const char *text, size_t len)
{
    struct shown shown;
    size_t fits = 0;
    while (fits < len && fits < NAME_SHOWN && is_of_name(text[fits]))
        fits++;
    snprintf(shown.text, sizeof shown.text, "%.*s%s", (int)fits, text, fits < len ? "..." : "");
    return shown;
}

/* Also one without its scheme, or with a part of it alone. */
static bool may_be_login(const char *text)
{
    const char *colon = strchr(text, ':');
    return colon && (strncmp(colon, "://", 3) == 0 || strchr(colon, '@'));
}

struct shown shown_value(const char *text, size_t max)
{
    struct shown shown;
    size_t len = 0, used;
    ENSURE(max <= SHOWN_MAX);
    if (may_be_login(text)) {
        snprintf(shown.text, sizeof shown.text, "(a URL)");
        return shown;
    }
    for (; *text; text += used) {
        uint32_t character;
        used = utf8_next(text, &character);
        if (len + used > max) {
            len += (size_t)snprintf(shown.text + len, sizeof "...", "...");
            break;
        }
        if (utf8_is_control(character) || (character == UTF8_REPLACEMENT && used == 1))
            shown.text[len++] = '?';
        else
            for (size_t i = 0; i < used; i++)
                shown.text[len++] = text[i];
    }
    shown.text[len] = '\0';
    return shown;
}
