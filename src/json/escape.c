#include "json/escape.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>
#include <wctype.h>

#include "base/assert.h"

bool escape_is_steering(uint32_t c)
{
    /* C1 controls, line and paragraph separators, and the marks of Unicode's bidirectional
     * algorithm (UAX 9, section 2). */
    return (c >= 0x7F && c < 0xA0) || c == 0x061C || c == 0x200E || c == 0x200F ||
           (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

/* Writes one character that cannot stand as it is; returns the bytes written, at most 10. */
static size_t escape_one(char *out, uint32_t c)
{
    static const char letters[] = "tnvfr"; /* 9 to 13 */
    if (c == '\\')
        return (size_t)sprintf(out, "\\\\");
    if (c == '\t' || c == '\n' || c == '\r')
        return (size_t)sprintf(out, "\\%c", letters[c - '\t']);
    return (size_t)sprintf(out, c < 0x80 ? "\\x%02X" : "\\u{%04X}", (unsigned)c);
}

char *escape_text(const void *bytes, size_t len)
{
    const char *from = bytes;
    char *out = malloc(len * 4 + 16), *at = out;
    ENSURE(out);
    mbstate_t state = {0};
    while (len > 0) {
        wchar_t wide;
        size_t used = mbrtowc(&wide, from, len, &state);
        if (used == (size_t)-1 || used == (size_t)-2) {
            at += sprintf(at, "\\x%02X", (unsigned char)*from);
            state = (mbstate_t){0};
            used = 1;
        } else {
            used = used == 0 ? 1 : used; /* NUL */
            if (wide == L'\\' || !iswprint((wint_t)wide) || escape_is_steering((uint32_t)wide))
                at += escape_one(at, (uint32_t)wide);
            else
                at = mempcpy(at, from, used);
        }
        from += used;
        len -= used;
    }
    *at = '\0';
    return out;
}
