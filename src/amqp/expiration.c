#include "amqp/expiration.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "amqp/field.h"
#include "amqp/wire.h"

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
    struct cursor c;
    if (!field_find(header, len, FIELD_EXPIRATION, &c))
        return 0;
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
