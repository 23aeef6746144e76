#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "amqp/field.h"
#include "amqp/wire.h"

static const struct {
    uint16_t flag;
    const char *value;
    size_t len;
} fields[] = {
    {1 << 15, "\003a/b", 4}, {1 << 14, "\001e", 2}, {1 << 13, "\0\0\0\004\001kt\001", 8},
    {1 << 12, "\002", 1},    {1 << 11, "\007", 1},  {1 << 10, "\002cc", 3},
    {1 << 9, "\003rrr", 4},  {1 << 8, "\00210", 3}, {1 << 7, "\001m", 2},
};

enum { FIELDS = sizeof fields / sizeof *fields };

static size_t make_header(uint8_t out[64], uint16_t flags)
{
    memset(out, 0, 64);
    out[1] = 60;
    wire_put16(out + 12, flags);
    size_t len = 14;
    for (unsigned i = 0; i < FIELDS; i++) {
        if (!(flags & fields[i].flag))
            continue;
        memcpy(out + len, fields[i].value, fields[i].len);
        len += fields[i].len;
    }
    return len;
}

static void test_found_whatever_stands_before(void **state)
{
    (void)state;
    static const enum field wanted[] = {FIELD_DELIVERY_MODE, FIELD_PRIORITY, FIELD_CORRELATION_ID,
                                        FIELD_REPLY_TO, FIELD_EXPIRATION};
    uint8_t header[64];
    for (unsigned set = 0; set < 1u << FIELDS; set++) {
        uint16_t flags = (uint16_t)(set << (16 - FIELDS));
        size_t len = make_header(header, flags);
        for (unsigned i = 0; i < 5; i++) {
            struct cursor c;
            bool found = field_find(header, len, wanted[i], &c);
            assert_int_equal(found, (flags & wanted[i]) != 0);
            if (found)
                assert_memory_equal(c.at, fields[3 + i].value, fields[3 + i].len);
        }
        assert_int_equal(field_is_persistent(header, len), (flags & FIELD_DELIVERY_MODE) != 0);
    }
}

static void test_other_modes_are_transient(void **state)
{
    (void)state;
    uint8_t header[64];
    size_t len = make_header(header, FIELD_DELIVERY_MODE);
    for (unsigned mode = 0; mode < 256; mode++) {
        header[len - 1] = (uint8_t)mode;
        assert_int_equal(field_is_persistent(header, len), mode == 2);
    }
}

static void test_a_direct_reply(void **state)
{
    (void)state;
    static const char *const names[] = {"amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to.x",
                                        "amq.rabbitmq.reply-t", "Amq.rabbitmq.reply-to", ""};
    for (unsigned i = 0; i < 5; i++) {
        uint8_t header[64] = {0};
        size_t len = strlen(names[i]);
        wire_put16(header + 12, FIELD_REPLY_TO | FIELD_PRIORITY);
        header[15] = (uint8_t)len;
        memcpy(header + 16, names[i], len);
        assert_int_equal(field_is_direct_reply(header, 16 + len), i == 0);
        assert_false(field_is_direct_reply(header, 15 + len));
    }
    uint8_t without[64];
    assert_false(field_is_direct_reply(without, make_header(without, 0)));
}

static void test_cut_off(void **state)
{
    (void)state;
    uint8_t header[64];
    size_t whole = make_header(header, 0xFF80);
    for (size_t len = 0; len < whole; len++) {
        struct cursor c;
        if (field_find(header, len, FIELD_EXPIRATION, &c))
            assert_true(c.at <= header + len);
        field_is_persistent(header, len);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_found_whatever_stands_before),
        cmocka_unit_test(test_other_modes_are_transient),
        cmocka_unit_test(test_a_direct_reply),
        cmocka_unit_test(test_cut_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
