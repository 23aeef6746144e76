#include "amqp/table.h"

#include <string.h>

static bool fields_check(const uint8_t *at, size_t len, bool named, unsigned depth);

static bool float_finite(const uint8_t *p)
{
    return p && (wire_get32(p) & 0x7F800000) != 0x7F800000;
}

static bool double_finite(const uint8_t *p)
{
    const uint64_t exponent = UINT64_C(0x7FF) << 52;
    return p && (wire_get64(p) & exponent) != exponent;
}

static bool nested_check(struct cursor *c, bool named, unsigned depth)
{
    uint32_t len = cursor_u32(c);
    const uint8_t *at = cursor_take(c, len);
    return at && depth < TABLE_DEPTH_MAX && fields_check(at, len, named, depth + 1);
}

static bool value_check(struct cursor *c, unsigned depth)
{
    switch (cursor_u8(c)) {
    case 'S':
    case 'x':
        cursor_skip_long_string(c);
        return !c->failed;
    case 'I':
    case 'i':
        return cursor_take(c, 4);
    case 'l':
    case 'L':
    case 'T':
        return cursor_take(c, 8);
    case 't':
    case 'b':
    case 'B':
        return cursor_take(c, 1);
    case 's':
    case 'u':
        return cursor_take(c, 2);
    case 'f':
        return float_finite(cursor_take(c, 4));
    case 'd':
        return double_finite(cursor_take(c, 8));
    case 'D':
        return cursor_take(c, 5);
    case 'V':
        return true;
    case 'F':
        return nested_check(c, true, depth);
    case 'A':
        return nested_check(c, false, depth);
    default:
        return false;
    }
}

static bool fields_check(const uint8_t *at, size_t len, bool named, unsigned depth)
{
    struct cursor c = {.at = at, .end = at + len};
    while (c.at < c.end) {
        if (named)
            cursor_skip_short_string(&c);
        if (!value_check(&c, depth))
            return false;
    }
    return true;
}

bool table_check(const uint8_t *at, size_t len)
{
    return fields_check(at, len, true, 1);
}

const uint8_t *table_find(const uint8_t *at, size_t len, const char *name)
{
    struct cursor c = {.at = at, .end = at + len};
    while (!c.failed && c.at < c.end) {
        size_t name_len = cursor_u8(&c);
        const uint8_t *key = cursor_take(&c, name_len);
        const uint8_t *value = c.at;
        if (key && name_len == strlen(name) && memcmp(key, name, name_len) == 0)
            return value;
        if (!value_check(&c, 1))
            return NULL;
    }
    return NULL;
}

void cursor_skip_table(struct cursor *c)
{
    uint32_t len = cursor_u32(c);
    const uint8_t *at = cursor_take(c, len);
    if (!at || !table_check(at, len))
        c->failed = true;
}
