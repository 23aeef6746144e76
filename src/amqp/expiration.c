#include "amqp/expiration.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "amqp/wire.h"

/* Property flags (AMQP 0-9-1, 4.2.6.1 and the order of the basic class's fields). */
enum {
    HAS_CONTENT_TYPE = 1 << 15,
    HAS_CONTENT_ENCODING = 1 << 14,
    HAS_HEADERS = 1 << 13,
    HAS_DELIVERY_MODE = 1 << 12,
    HAS_PRIORITY = 1 << 11,
    HAS_CORRELATION_ID = 1 << 10,
    HAS_REPLY_TO = 1 << 9,
    HAS_EXPIRATION = 1 << 8,

    FLAGS_AT = 12, /* behind class, weight and body size */
};

static void skip_shortstr(struct cursor *c)
{
    cursor_take(c, cursor_u8(c));
}

/* Moves to the expiration's length octet. */
static void skip_to_expiration(struct cursor *c, uint16_t flags)
{
    if (flags & HAS_CONTENT_TYPE)
        skip_shortstr(c);
    if (flags & HAS_CONTENT_ENCODING)
        skip_shortstr(c);
    if (flags & HAS_HEADERS)
        cursor_take(c, cursor_u32(c));
    if (flags & HAS_DELIVERY_MODE)
        cursor_u8(c);
    if (flags & HAS_PRIORITY)
        cursor_u8(c);
    if (flags & HAS_CORRELATION_ID)
        skip_shortstr(c);
    if (flags & HAS_REPLY_TO)
        skip_shortstr(c);
}

static bool read_number(const uint8_t *digits, size_t len, uint64_t *number)
{
    *number = 0;
    if (len == 0 || len > 18)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (digits[i] < '0' || digits[i] > '9')
            return false;
        *number = *number * 10 + (uint64_t)(digits[i] - '0');
    }
    return true;
}

size_t expiration_shorten(const uint8_t *header, size_t len, uint64_t waited_ms, uint8_t *out)
{
    struct cursor c = {header, header + len, false};
    cursor_take(&c, FLAGS_AT);
    uint16_t flags = cursor_u16(&c);
    if (!(flags & HAS_EXPIRATION))
        return 0;
    skip_to_expiration(&c, flags);
    const uint8_t *length_octet = c.at;
    size_t text_len = cursor_u8(&c);
    const uint8_t *digits = cursor_take(&c, text_len);
    uint64_t ttl_ms;
    if (c.failed || !read_number(digits, text_len, &ttl_ms))
        return 0;
    char text[24];
    size_t new_len =
        (size_t)snprintf(text, sizeof text, "%llu",
                         (unsigned long long)(ttl_ms > waited_ms ? ttl_ms - waited_ms : 0));
    size_t before = (size_t)(length_octet - header);
    size_t after = (size_t)(c.end - c.at);
    if (new_len > text_len) /* leading zeros cannot make it longer, but room is what it is */
        return 0;
    memcpy(out, header, before);
    out[before] = (uint8_t)new_len;
    memcpy(out + before + 1, text, new_len);
    memcpy(out + before + 1 + new_len, c.at, after);
    return before + 1 + new_len + after;
}
