#include "json/escape.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>
#include <wctype.h>

#include "base/assert.h"
#include "base/utf8.h"

bool escape_is_due(uint32_t c)
{
    /* What shows nothing (UAX 44, Default_Ignorable_Code_Point). */
    static const struct {
        uint32_t first, last;
    } ranges[] = {
        {0xAD, 0xAD},     {0x34F, 0x34F},     {0x61C, 0x61C},     {0x115F, 0x1160},
        {0x17B4, 0x17B5}, {0x180B, 0x180F},   {0x200B, 0x200F},   {0x2060, 0x206F},
        {0x3164, 0x3164}, {0xFE00, 0xFE0F},   {0xFEFF, 0xFEFF},   {0xFFA0, 0xFFA0},
        {0xFFF0, 0xFFFB}, {0x1BCA0, 0x1BCA3}, {0x1D173, 0x1D17A}, {0xE0000, 0xE0FFF},
    };
    unsigned i = 0;
    while (i < sizeof ranges / sizeof *ranges && c > ranges[i].last)
        i++;
    return (c >= 0x20 && utf8_is_control(c)) ||
           (i < sizeof ranges / sizeof *ranges && c >= ranges[i].first);
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
            if (wide == L'\\' || !iswprint((wint_t)wide) || escape_is_due((uint32_t)wide))
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
