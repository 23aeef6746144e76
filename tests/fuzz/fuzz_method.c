/* Methods, content headers and tables: what is accepted can be decoded and encoded again, and
 * those who read the same bytes agree on them.
 *
 * Input: what it is (1 byte), then a method payload, a content header payload, or a table. */

#include "amqp/content.h"
#include "amqp/expiration.h"
#include "amqp/method.h"
#include "amqp/properties.h"
#include "amqp/table.h"
#include "fuzz.h"

static bool same(amqp_bytes_t a, const uint8_t *b, size_t b_len)
{
    return bytes_equal(a.bytes, a.len, b, b_len);
}

static void check_publish(const uint8_t *payload, size_t len, const amqp_basic_publish_t *m)
{
    struct publish p;
    ENSURE(publish_parse(payload, len, &p));
    ENSURE(same(m->exchange, p.exchange, p.exchange_len));
    ENSURE(same(m->routing_key, p.routing_key, p.routing_key_len));
    ENSURE(!m->mandatory == !p.mandatory && !m->immediate == !p.immediate);
}

/* Bits that mean nothing are not written again: only what was encoded here comes out the same. */
static void check_encoded(amqp_method_number_t number, const void *decoded, size_t len)
{
    size_t capacity = len + FRAME_OVERHEAD_BYTES;
    uint8_t *once = malloc(capacity), *twice = malloc(capacity);
    ENSURE(once && twice);
    ENSURE(method_encode(once, capacity, 7, number, decoded) == capacity);
    ENSURE(method_encode(twice, capacity - 1, 7, number, decoded) == 0);
    struct frame frame;
    size_t need;
    ENSURE(frame_scan(once, capacity, 0, &frame, &need) == FRAME_COMPLETE);
    ENSURE(frame.channel == 7 && frame.payload_len == len);
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t number_again;
    void *again;
    ENSURE(method_decode(&arena, frame.payload, len, &number_again, &again));
    ENSURE(number_again == number);
    ENSURE(method_encode(twice, capacity, 7, number, again) == capacity);
    ENSURE(memcmp(once, twice, capacity) == 0);
    method_arena_deinit(&arena);
    free(once);
    free(twice);
}

static void look_at_method(const uint8_t *payload, size_t len)
{
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t number;
    void *decoded;
    bool accepted = method_check(payload, len);
    ENSURE(method_decode(&arena, payload, len, &number, &decoded) == accepted);
    ENSURE(method_name(method_number(payload, len))[0]);
    if (accepted) {
        ENSURE(number == method_number(payload, len));
        check_encoded(number, decoded, len);
        if (number == AMQP_BASIC_PUBLISH_METHOD)
            check_publish(payload, len, decoded);
    }
    method_arena_deinit(&arena);
}

static void visit(void *arg, const char *name, const amqp_field_value_t *value)
{
    unsigned *count = arg;
    int64_t integer;
    property_integer(value, &integer);
    ENSURE(name[0]);
    (*count)++;
}

static void check_shortened(const uint8_t *payload, size_t len, uint64_t body_size)
{
    uint8_t *out = malloc(len);
    ENSURE(out);
    for (uint64_t waited_ms = 0; waited_ms <= UINT64_MAX / 4096; waited_ms = waited_ms * 4096 + 1) {
        size_t shortened = expiration_shorten(payload, len, waited_ms, out);
        uint64_t size_again;
        ENSURE(shortened <= len);
        if (shortened == 0)
            break;
        ENSURE(header_check(out, shortened, &size_again) == CONTENT_MORE);
        ENSURE(size_again == body_size);
    }
    free(out);
}

/* librabbitmq writes the properties again, as long as they were and as good. */
static void check_written(const struct properties *properties, const uint8_t *payload, size_t len)
{
    enum { FLAGS_AT = 12 };
    uint8_t *out = exact_copy(payload, len);
    amqp_bytes_t room = {.len = len - FLAGS_AT, .bytes = out + FLAGS_AT};
    amqp_basic_properties_t fields = properties->fields;
    ENSURE(amqp_encode_properties(AMQP_BASIC_CLASS, &fields, room) == (int)room.len);
    uint64_t body_size;
    ENSURE(header_check(out, len, &body_size) == CONTENT_MORE);
    ENSURE(body_size == properties->body_size);
    free(out);
}

static void look_at_header(const uint8_t *payload, size_t len)
{
    uint64_t body_size = 0;
    bool accepted = header_check(payload, len, &body_size) == CONTENT_MORE;
    struct properties properties;
    ENSURE(properties_decode(&properties, payload, len) == accepted);
    if (!accepted)
        return;
    ENSURE(properties.body_size == body_size);
    unsigned count = 0;
    properties_each(&properties, visit, &count);
    ENSURE(count == (unsigned)__builtin_popcount(wire_get16(payload + 12)));
    check_written(&properties, payload, len);
    properties_deinit(&properties);
    check_shortened(payload, len, body_size);
}

/* A table is as good by itself as it is in a content header. */
static void look_at_table(const uint8_t *fields, size_t len)
{
    enum { BEFORE = 18 };
    uint8_t *payload = malloc(BEFORE + len);
    ENSURE(payload);
    memset(payload, 0, BEFORE);
    wire_put16(payload, AMQP_BASIC_CLASS);
    wire_put16(payload + 12, AMQP_BASIC_HEADERS_FLAG);
    wire_put32(payload + 14, (uint32_t)len);
    memcpy(payload + BEFORE, fields, len);
    uint64_t body_size;
    bool accepted = header_check(payload, BEFORE + len, &body_size) == CONTENT_MORE;
    ENSURE(accepted == table_check(fields, len));
    look_at_header(payload, BEFORE + len);
    free(payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const look_at[])(const uint8_t *, size_t) = {look_at_method, look_at_header,
                                                               look_at_table};
    struct input in = {data, size};
    unsigned what = input_octet(&in) % 3;
    uint8_t *bytes = exact_copy(in.at, in.left);
    look_at[what](bytes, in.left);
    free(bytes);
    return 0;
}
