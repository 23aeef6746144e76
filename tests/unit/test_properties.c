#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/bytes.h"
#include "amqp/properties.h"

struct seen {
    unsigned count;
    const char *names[16];
    amqp_field_value_t values[16];
};

static void on_property(void *arg, const char *name, const amqp_field_value_t *value)
{
    struct seen *seen = arg;
    seen->names[seen->count] = name;
    seen->values[seen->count++] = *value;
}

static void assert_text(const amqp_field_value_t *value, const char *expected)
{
    assert_int_equal(value->kind, AMQP_FIELD_KIND_UTF8);
    assert_int_equal(value->value.bytes.len, strlen(expected));
    assert_memory_equal(value->value.bytes.bytes, expected, strlen(expected));
}

static void properties_are_visited_in_order(void **state)
{
    (void)state;
    static const char *const names[] = {
        "content_type",   "content_encoding", "headers",    "delivery_mode", "priority",
        "correlation_id", "reply_to",         "expiration", "message_id",    "timestamp",
        "type",           "user_id",          "app_id",     "cluster_id"};
    static const char kinds[] = "ssF11ssss8ssss";
    struct bytes b = {0};
    put_header(&b, 60, 0, 77, 0xFFFC);
    for (unsigned i = 0; i < 14; i++) {
        if (kinds[i] == 's')
            put_short_string(&b, names[i]);
        else if (kinds[i] == 'F')
            put_end(&b, put_begin(&b));
        else if (kinds[i] == '1')
            put8(&b, i);
        else
            put64(&b, UINT64_MAX);
    }
    struct properties properties;
    struct seen seen = {0};
    assert_true(properties_decode(&properties, b.data, b.len));
    assert_int_equal(properties.body_size, 77);
    properties_each(&properties, on_property, &seen);
    assert_int_equal(seen.count, 14);
    for (unsigned i = 0; i < 14; i++) {
        assert_string_equal(seen.names[i], names[i]);
        if (kinds[i] == 's')
            assert_text(&seen.values[i], names[i]);
    }
    assert_int_equal(seen.values[2].kind, AMQP_FIELD_KIND_TABLE);
    assert_int_equal(seen.values[2].value.table.num_entries, 0);
    assert_int_equal(seen.values[3].value.u8, 3);
    assert_int_equal(seen.values[4].value.u8, 4);
    assert_int_equal(seen.values[9].kind, AMQP_FIELD_KIND_TIMESTAMP);
    assert_true(seen.values[9].value.u64 == UINT64_MAX);
    properties_deinit(&properties);
    bytes_free(&b);
}

static void absent_properties_are_not_visited(void **state)
{
    (void)state;
    struct bytes b = {0};
    put_header(&b, 60, 0, 0, AMQP_BASIC_PRIORITY_FLAG);
    put8(&b, 0);
    struct properties properties;
    struct seen seen = {0};
    assert_true(properties_decode(&properties, b.data, b.len));
    properties_each(&properties, on_property, &seen);
    assert_int_equal(seen.count, 1);
    assert_string_equal(seen.names[0], "priority");
    properties_deinit(&properties);
    assert_false(properties_decode(&properties, b.data, b.len - 1));
    bytes_free(&b);
}

static void put_integers(struct bytes *b)
{
    put8(b, 'b');
    put8(b, 0xFF);
    put8(b, 'B');
    put8(b, 0xFF);
    put8(b, 's');
    put16(b, 0xFFFF);
    put8(b, 'u');
    put16(b, 0xFFFF);
    put8(b, 'I');
    put32(b, 0xFFFFFFFF);
    put8(b, 'i');
    put32(b, 0xFFFFFFFF);
    put8(b, 'l');
    put64(b, UINT64_MAX);
    put8(b, 'L');
    put64(b, UINT64_MAX);
}

static void values_within_headers(void **state)
{
    (void)state;
    struct bytes b = {0};
    put_header(&b, 60, 0, 0, AMQP_BASIC_HEADERS_FLAG);
    size_t table = put_begin(&b);
    put_short_string(&b, "list");
    put8(&b, 'A');
    size_t array = put_begin(&b);
    put_integers(&b);
    put8(&b, 'f');
    put32(&b, 0x3FC00000); /* 1.5 */
    put8(&b, 'd');
    put64(&b, UINT64_C(0xC004000000000000)); /* -2.5 */
    put8(&b, 'D');
    put8(&b, 2);
    put32(&b, 314);
    put8(&b, 't');
    put8(&b, 7);
    put8(&b, 'V');
    put8(&b, 'T');
    put64(&b, 1);
    put_end(&b, array);
    put_end(&b, table);
    struct properties properties;
    assert_true(properties_decode(&properties, b.data, b.len));
    assert_int_equal(properties.fields.headers.num_entries, 1);
    const amqp_array_t *list = &properties.fields.headers.entries[0].value.value.array;
    assert_int_equal(list->num_entries, 14);
    static const int64_t expected[] = {-1, 255, -1, 65535, -1, UINT32_MAX, -1, -1};
    int64_t integer;
    for (unsigned i = 0; i < 8; i++) {
        assert_true(property_integer(&list->entries[i], &integer));
        assert_true(integer == expected[i]);
    }
    for (int i = 8; i < 14; i++)
        assert_false(property_integer(&list->entries[i], &integer));
    assert_true(list->entries[8].value.f32 > 1.4f && list->entries[8].value.f32 < 1.6f);
    assert_true(list->entries[9].value.f64 < -2.4 && list->entries[9].value.f64 > -2.6);
    assert_int_equal(list->entries[10].value.decimal.decimals, 2);
    assert_int_equal(list->entries[10].value.decimal.value, 314);
    assert_int_equal(list->entries[11].value.boolean, 1);
    properties_deinit(&properties);
    bytes_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(properties_are_visited_in_order),
        cmocka_unit_test(absent_properties_are_not_visited),
        cmocka_unit_test(values_within_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
