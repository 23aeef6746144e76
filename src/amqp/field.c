#include "amqp/field.h"

#include <string.h>

#include "amqp/wire.h"

enum {
    HAS_CONTENT_TYPE = 1 << 15,
    HAS_CONTENT_ENCODING = 1 << 14,
    HAS_HEADERS = 1 << 13,

    FLAGS_AT = 12, /* behind class, weight and body size */
    PERSISTENT = 2,
};

bool field_find(const uint8_t *header, size_t len, enum field field, struct cursor *c)
{
    *c = (struct cursor){header, header + len, false};
    cursor_take(c, FLAGS_AT);
    uint16_t flags = cursor_u16(c);
    if (!(flags & field))
        return false;
    uint16_t before = (uint16_t)(flags & ~(field * 2 - 1)); /* flags go down in order */
    if (before & HAS_CONTENT_TYPE)
        cursor_skip_short_string(c);
    if (before & HAS_CONTENT_ENCODING)
        cursor_skip_short_string(c);
    if (before & HAS_HEADERS)
        cursor_skip_long_string(c);
    if (before & FIELD_DELIVERY_MODE)
        cursor_u8(c);
    if (before & FIELD_PRIORITY)
        cursor_u8(c);
    if (before & FIELD_CORRELATION_ID)
        cursor_skip_short_string(c);
    if (before & FIELD_REPLY_TO)
        cursor_skip_short_string(c);
    return !c->failed;
}

bool field_is_direct_reply(const uint8_t *header, size_t len)
{
    static const char name[] = "amq.rabbitmq.reply-to";
    struct cursor c;
    if (!field_find(header, len, FIELD_REPLY_TO, &c) || cursor_u8(&c) != sizeof name - 1)
        return false;
    const uint8_t *text = cursor_take(&c, sizeof name - 1);
    return text && memcmp(text, name, sizeof name - 1) == 0;
}

bool field_is_persistent(const uint8_t *header, size_t len)
{
    struct cursor c;
    return field_find(header, len, FIELD_DELIVERY_MODE, &c) && cursor_u8(&c) == PERSISTENT;
}
