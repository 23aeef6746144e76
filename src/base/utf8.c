#include "base/utf8.h"

size_t utf8_next(const char *text, uint32_t *character)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *at = (const unsigned char *)text;
    *character = at[0];
    if (at[0] < 0x80)
        return 1;
    size_t len = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
    uint32_t value = at[0] & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((at[i] & 0xc0) != 0x80)
            goto broken; /* the NUL at the end too */
        value = value << 6 | (at[i] & 0x3f);
    }
    if (at[0] < 0xc2 || at[0] > 0xf4 || value < least[len] || value > 0x10ffff ||
        (value >= 0xd800 && value <= 0xdfff))
        goto broken;
    *character = value;
    return len;
broken:
    *character = UTF8_REPLACEMENT;
    return 1;
}

bool utf8_is_control(uint32_t character)
{
    return character < 0x20 || (character >= 0x7f && character < 0xa0) ||
           (character >= 0x2028 && character <= 0x202e) ||
           (character >= 0x2066 && character <= 0x2069);
}
