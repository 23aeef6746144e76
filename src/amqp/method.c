#include "amqp/method.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/frame.h"
#include "amqp/table.h"
#include "amqp/wire.h"
#include "base/assert.h"

enum {
    NUMBER_BYTES = 4,
    ARENA_PAGE_BYTES = 4096,
    ARENA_PAGES_KEPT = 8, /* what a hostile table took beyond is given back */
};

/* Who sends a method to whom, and whether content follows it. */
enum {
    FROM_CLIENT = 1,
    CARRIES_CONTENT = 2,
    UNANSWERED = 4,
    NOWAIT_SHIFT = 8, /* above it: the bit for no-wait in the octet of bits; 0: it has none */
};

#define NOWAIT(bit) (1 << (bit) << NOWAIT_SHIFT)

/* Fields by their width: 1 2 4 8 are octets (bits come packed into one), s a short string,
 * S a long string, F a table. */
struct method_shape {
    amqp_method_number_t number;
    uint16_t flags;
    const char *name;
    const char *fields;
};

#define M(class_id, method_id) ((amqp_method_number_t)(class_id) << 16 | (method_id))

/* In the order of the numbers, for bsearch. */
static const struct method_shape shapes[] = {
    {M(10, 10), 0, "connection.start", "11FSS"},
    {M(10, 11), FROM_CLIENT, "connection.start-ok", "FsSs"},
    {M(10, 20), 0, "connection.secure", "S"},
    {M(10, 21), FROM_CLIENT, "connection.secure-ok", "S"},
    {M(10, 30), 0, "connection.tune", "242"},
    {M(10, 31), FROM_CLIENT, "connection.tune-ok", "242"},
    {M(10, 40), FROM_CLIENT, "connection.open", "ss1"},
    {M(10, 41), 0, "connection.open-ok", "s"},
    {M(10, 50), FROM_CLIENT, "connection.close", "2s22"},
    {M(10, 51), FROM_CLIENT | UNANSWERED, "connection.close-ok", ""},
    {M(10, 60), 0, "connection.blocked", "s"},
    {M(10, 61), 0, "connection.unblocked", ""},
    {M(10, 70), FROM_CLIENT, "connection.update-secret", "Ss"},
    {M(10, 71), 0, "connection.update-secret-ok", ""},
    {M(20, 10), FROM_CLIENT, "channel.open", "s"},
    {M(20, 11), 0, "channel.open-ok", "S"},
    {M(20, 20), FROM_CLIENT, "channel.flow", "1"},
    {M(20, 21), 0, "channel.flow-ok", "1"},
    {M(20, 40), FROM_CLIENT, "channel.close", "2s22"},
    {M(20, 41), FROM_CLIENT | UNANSWERED, "channel.close-ok", ""},
    {M(30, 10), FROM_CLIENT, "access.request", "s1"},
    {M(30, 11), 0, "access.request-ok", "2"},
    {M(40, 10), FROM_CLIENT | NOWAIT(4), "exchange.declare", "2ss1F"},
    {M(40, 11), 0, "exchange.declare-ok", ""},
    {M(40, 20), FROM_CLIENT | NOWAIT(1), "exchange.delete", "2s1"},
    {M(40, 21), 0, "exchange.delete-ok", ""},
    {M(40, 30), FROM_CLIENT | NOWAIT(0), "exchange.bind", "2sss1F"},
    {M(40, 31), 0, "exchange.bind-ok", ""},
    {M(40, 40), FROM_CLIENT | NOWAIT(0), "exchange.unbind", "2sss1F"},
    {M(40, 51), 0, "exchange.unbind-ok", ""},
    {M(50, 10), FROM_CLIENT | NOWAIT(4), "queue.declare", "2s1F"},
    {M(50, 11), 0, "queue.declare-ok", "s44"},
    {M(50, 20), FROM_CLIENT | NOWAIT(0), "queue.bind", "2sss1F"},
    {M(50, 21), 0, "queue.bind-ok", ""},
    {M(50, 30), FROM_CLIENT | NOWAIT(0), "queue.purge", "2s1"},
    {M(50, 31), 0, "queue.purge-ok", "4"},
    {M(50, 40), FROM_CLIENT | NOWAIT(2), "queue.delete", "2s1"},
    {M(50, 41), 0, "queue.delete-ok", "4"},
    {M(50, 50), FROM_CLIENT, "queue.unbind", "2sssF"},
    {M(50, 51), 0, "queue.unbind-ok", ""},
    {M(60, 10), FROM_CLIENT, "basic.qos", "421"},
    {M(60, 11), 0, "basic.qos-ok", ""},
    {M(60, 20), FROM_CLIENT | NOWAIT(3), "basic.consume", "2ss1F"},
    {M(60, 21), 0, "basic.consume-ok", "s"},
    {M(60, 30), FROM_CLIENT | NOWAIT(0), "basic.cancel", "s1"},
    {M(60, 31), 0, "basic.cancel-ok", "s"},
    {M(60, 40), FROM_CLIENT | CARRIES_CONTENT | UNANSWERED, "basic.publish", "2ss1"},
    {M(60, 50), CARRIES_CONTENT, "basic.return", "2sss"},
    {M(60, 60), CARRIES_CONTENT, "basic.deliver", "s81ss"},
    {M(60, 70), FROM_CLIENT, "basic.get", "2s1"},
    {M(60, 71), CARRIES_CONTENT, "basic.get-ok", "81ss4"},
    {M(60, 72), 0, "basic.get-empty", "s"},
    {M(60, 80), FROM_CLIENT | UNANSWERED, "basic.ack", "81"},
    {M(60, 90), FROM_CLIENT | UNANSWERED, "basic.reject", "81"},
    {M(60, 100), FROM_CLIENT | UNANSWERED, "basic.recover-async", "1"},
    {M(60, 110), FROM_CLIENT, "basic.recover", "1"},
    {M(60, 111), 0, "basic.recover-ok", ""},
    {M(60, 120), FROM_CLIENT | UNANSWERED, "basic.nack", "81"},
    {M(85, 10), FROM_CLIENT | NOWAIT(0), "confirm.select", "1"},
    {M(85, 11), 0, "confirm.select-ok", ""},
    {M(90, 10), FROM_CLIENT, "tx.select", ""},
    {M(90, 11), 0, "tx.select-ok", ""},
    {M(90, 20), FROM_CLIENT, "tx.commit", ""},
    {M(90, 21), 0, "tx.commit-ok", ""},
    {M(90, 30), FROM_CLIENT, "tx.rollback", ""},
    {M(90, 31), 0, "tx.rollback-ok", ""},
};

static int compare_number(const void *key, const void *element)
{
    amqp_method_number_t number = *(const amqp_method_number_t *)key;
    const struct method_shape *shape = element;
    return (number > shape->number) - (number < shape->number);
}

static const struct method_shape *shape_find(amqp_method_number_t number)
{
    return bsearch(&number, shapes, sizeof shapes / sizeof *shapes, sizeof *shapes, compare_number);
}

bool method_known(amqp_method_number_t number)
{
    const struct method_shape *shape = shape_find(number);
    return shape && (shape->flags & FROM_CLIENT);
}

bool method_carries_content(amqp_method_number_t number)
{
    const struct method_shape *shape = shape_find(number);
    return shape && (shape->flags & CARRIES_CONTENT);
}

bool method_is_answered(amqp_method_number_t number)
{
    const struct method_shape *shape = shape_find(number);
    return shape && (shape->flags & (FROM_CLIENT | UNANSWERED)) == FROM_CLIENT;
}

const char *method_name(amqp_method_number_t number)
{
    const struct method_shape *shape = shape_find(number);
    return shape ? shape->name : "?";
}

/* Bytes of the sequence that starts at p, 0 if it is none. The shortest form is asked for, but
 * surrogates and numbers above U+10FFFF pass, as they do in RabbitMQ. */
static size_t utf8_sequence(const uint8_t *p, size_t left)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (p[0] < 0x80)
        return 1;
    size_t n = (p[0] & 0xE0) == 0xC0   ? 2
               : (p[0] & 0xF0) == 0xE0 ? 3
               : (p[0] & 0xF8) == 0xF0 ? 4
                                       : 0;
    if (n == 0 || n > left)
        return 0;
    uint32_t code = p[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return 0;
        code = code << 6 | (p[i] & 0x3F);
    }
    return code < smallest[n] ? 0 : n;
}

static bool utf8_check(const uint8_t *p, size_t len)
{
    while (len > 0) {
        size_t n = utf8_sequence(p, len);
        if (n == 0)
            return false;
        p += n;
        len -= n;
    }
    return true;
}

static void skip_short_string(struct cursor *c, bool utf8)
{
    uint8_t len = cursor_u8(c);
    const uint8_t *at = cursor_take(c, len);
    if (utf8 && at && !utf8_check(at, len))
        c->failed = true;
}

static void skip_field(struct cursor *c, char field, bool utf8)
{
    switch (field) {
    case 's':
        skip_short_string(c, utf8);
        break;
    case 'S':
        cursor_skip_long_string(c);
        break;
    case 'F':
        cursor_skip_table(c);
        break;
    default:
        cursor_take(c, (size_t)(field - '0'));
    }
}

static bool check(const uint8_t *payload, size_t len, bool strict)
{
    const struct method_shape *shape = shape_find(method_number(payload, len));
    if (!shape)
        return false;
    struct cursor c = {.at = payload + NUMBER_BYTES, .end = payload + len};
    for (const char *field = shape->fields; *field; field++)
        skip_field(&c, *field, strict && !(shape->flags & CARRIES_CONTENT));
    return !c.failed && c.at == c.end;
}

bool method_check(const uint8_t *payload, size_t len)
{
    return check(payload, len, true);
}

/* A table is as long as it says, whatever is in it. */
static bool fills(const struct method_shape *shape, const uint8_t *payload, size_t len)
{
    struct cursor c = {.at = payload + NUMBER_BYTES, .end = payload + len};
    for (const char *field = shape->fields; *field; field++)
        skip_field(&c, *field == 'F' ? 'S' : *field, false);
    return !c.failed && c.at == c.end;
}

enum method_fault method_find_fault(const uint8_t *payload, size_t len)
{
    const struct method_shape *shape = shape_find(method_number(payload, len));
    if (!shape)
        return METHOD_FINE;
    if (!fills(shape, payload, len))
        return METHOD_CUT;
    struct cursor c = {.at = payload + NUMBER_BYTES, .end = payload + len};
    for (const char *field = shape->fields; *field; field++) {
        skip_field(&c, *field, !(shape->flags & CARRIES_CONTENT));
        if (c.failed)
            return *field == 'F' ? METHOD_BAD_TABLE : METHOD_BAD_TEXT;
    }
    return METHOD_FINE;
}

bool method_set_nowait(uint8_t *payload, size_t len, bool nowait)
{
    const struct method_shape *shape = shape_find(method_number(payload, len));
    uint8_t bit = shape ? (uint8_t)(shape->flags >> NOWAIT_SHIFT) : 0;
    if (bit == 0)
        return false;
    const char *bits = strchr(shape->fields, '1'); /* none of them has another octet before it */
    struct cursor c = {.at = payload + NUMBER_BYTES, .end = payload + len};
    for (const char *field = shape->fields; field < bits; field++)
        skip_field(&c, *field, false);
    ENSURE(!c.failed && c.at < c.end);
    uint8_t *octet = payload + (c.at - payload);
    bool was = *octet & bit;
    *octet = (uint8_t)(nowait ? *octet | bit : *octet & ~bit);
    return was;
}

void method_arena_init(struct method_arena *arena)
{
    init_amqp_pool(&arena->pool, ARENA_PAGE_BYTES);
}

void method_arena_deinit(struct method_arena *arena)
{
    empty_amqp_pool(&arena->pool);
}

static void arena_reset(struct method_arena *arena)
{
    if (arena->pool.pages.num_blocks > ARENA_PAGES_KEPT) {
        method_arena_deinit(arena);
        method_arena_init(arena);
    } else {
        recycle_amqp_pool(&arena->pool);
    }
}

static amqp_bytes_t bytes_at(const uint8_t *at, size_t len)
{
    /* librabbitmq's type is not const; nothing writes through it. */
    return (amqp_bytes_t){.len = len, .bytes = (void *)(uintptr_t)at};
}

/* Only for a payload that method_check has accepted. */
static void *update_secret_decode(struct method_arena *arena, const uint8_t *payload, size_t len)
{
    amqp_connection_update_secret_t *fields = amqp_pool_alloc(&arena->pool, sizeof *fields);
    if (!fields)
        return NULL;
    struct cursor c = {.at = payload + NUMBER_BYTES, .end = payload + len};
    uint32_t secret_len = cursor_u32(&c);
    fields->new_secret = bytes_at(cursor_take(&c, secret_len), secret_len);
    uint8_t reason_len = cursor_u8(&c);
    fields->reason = bytes_at(cursor_take(&c, reason_len), reason_len);
    ENSURE(!c.failed);
    return fields;
}

/* For a payload that was checked: librabbitmq accepts bytes left over, and follows nested tables as
 * deep as they go. */
static bool decode(struct method_arena *arena, const uint8_t *payload, size_t len,
                   amqp_method_number_t *number, void **decoded)
{
    arena_reset(arena);
    *number = method_number(payload, len);
    switch (*number) {
    case AMQP_CONNECTION_UPDATE_SECRET_METHOD:
        *decoded = update_secret_decode(arena, payload, len);
        return *decoded;
    case AMQP_CONNECTION_UPDATE_SECRET_OK_METHOD:
        *decoded = amqp_pool_alloc(&arena->pool, sizeof(amqp_connection_update_secret_ok_t));
        return *decoded;
    default:
        return amqp_decode_method(*number, &arena->pool,
                                  bytes_at(payload + NUMBER_BYTES, len - NUMBER_BYTES),
                                  decoded) == AMQP_STATUS_OK;
    }
}

bool method_decode(struct method_arena *arena, const uint8_t *payload, size_t len,
                   amqp_method_number_t *number, void **decoded)
{
    return check(payload, len, true) && decode(arena, payload, len, number, decoded);
}

bool method_decode_reply(struct method_arena *arena, const uint8_t *payload, size_t len,
                         amqp_method_number_t *number, void **decoded)
{
    return check(payload, len, false) && decode(arena, payload, len, number, decoded);
}

/* Bytes written, negative if they do not fit. */
static int update_secret_encode(uint8_t *out, size_t capacity,
                                const amqp_connection_update_secret_t *fields)
{
    const amqp_bytes_t *secret = &fields->new_secret, *reason = &fields->reason;
    if (reason->len > UINT8_MAX || capacity < reason->len + 5 ||
        secret->len > capacity - reason->len - 5)
        return -1;
    wire_put32(out, (uint32_t)secret->len);
    if (secret->len > 0)
        memcpy(out + 4, secret->bytes, secret->len);
    out += 4 + secret->len;
    out[0] = (uint8_t)reason->len;
    if (reason->len > 0)
        memcpy(out + 1, reason->bytes, reason->len);
    return (int)(secret->len + reason->len + 5);
}

static int fields_encode(uint8_t *out, size_t capacity, amqp_method_number_t number,
                         const void *decoded)
{
    switch (number) {
    case AMQP_CONNECTION_UPDATE_SECRET_METHOD:
        return update_secret_encode(out, capacity, decoded);
    case AMQP_CONNECTION_UPDATE_SECRET_OK_METHOD:
        return 0;
    default:
        return amqp_encode_method(number, (void *)(uintptr_t)decoded, bytes_at(out, capacity));
    }
}

size_t method_encode(uint8_t *out, size_t capacity, uint16_t channel, amqp_method_number_t number,
                     const void *decoded)
{
    const size_t around = FRAME_OVERHEAD_BYTES + NUMBER_BYTES;
    if (capacity < around)
        return 0;
    uint8_t *payload = out + FRAME_HEAD_BYTES;
    int written = fields_encode(payload + NUMBER_BYTES, capacity - around, number, decoded);
    if (written < 0)
        return 0;
    wire_put32(payload, number);
    return frame_wrap(out, FRAME_METHOD, channel, (uint32_t)written + NUMBER_BYTES);
}
