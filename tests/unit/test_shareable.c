/* What may be sent on a connection to RabbitMQ that many clients share. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "upstream/shareable.h"

static amqp_field_value_t number(int value)
{
    return (amqp_field_value_t){AMQP_FIELD_KIND_I32, {.i32 = value}};
}

static amqp_field_value_t text(const char *value)
{
    return (amqp_field_value_t){AMQP_FIELD_KIND_UTF8, {.bytes = bytes_of(value)}};
}

static bool declares(const char *key, amqp_field_value_t value)
{
    amqp_table_entry_t entry = {bytes_of(key), value};
    amqp_queue_declare_t m = {
        .queue = bytes_of("q"), .durable = 1, .arguments = {.num_entries = 1, .entries = &entry}};
    return shareable_method(AMQP_QUEUE_DECLARE_METHOD, &m, 3);
}

static void test_arguments(void **state)
{
    (void)state;
    assert_true(declares("x-message-ttl", number(1000)));
    assert_true(declares("x-queue-type", text("quorum")));
    assert_true(declares("x-queue-mode", text("lazy")));
    assert_true(declares("x-dead-letter-exchange", text("dlx")));
    assert_false(declares("x-message-ttl", text("1000")));
    assert_false(declares("x-queue-type", text("stream")));
    assert_false(declares("x-queue-type", number(1)));
    assert_false(declares("x-queue-master-locator", text("bogus")));
    assert_false(declares("x-max-age", text("1q")));
    assert_false(declares("x-of-a-later-version", number(1)));
}

static void test_queues(void **state)
{
    (void)state;
    amqp_queue_declare_t m = {.queue = bytes_of("q")};
    assert_true(shareable_method(AMQP_QUEUE_DECLARE_METHOD, &m, 3)); /* transient */
    assert_true(shareable_method(AMQP_QUEUE_DECLARE_METHOD, &m, 0));
    assert_false(shareable_method(AMQP_QUEUE_DECLARE_METHOD, &m, 4));
    assert_true(method_leaves_nothing(AMQP_QUEUE_DECLARE_METHOD, &m));
    m.passive = 1;
    assert_true(shareable_method(AMQP_QUEUE_DECLARE_METHOD, &m, 4));
    m = (amqp_queue_declare_t){.queue = bytes_of("q"), .durable = 1};
    assert_true(shareable_method(AMQP_QUEUE_DECLARE_METHOD, &m, 4));
    m.exclusive = 1;
    assert_false(shareable_method(AMQP_QUEUE_DECLARE_METHOD, &m, 3));
    assert_false(method_leaves_nothing(AMQP_QUEUE_DECLARE_METHOD, &m));
    m = (amqp_queue_declare_t){.durable = 1}; /* named by the server */
    assert_false(shareable_method(AMQP_QUEUE_DECLARE_METHOD, &m, 3));
    m = (amqp_queue_declare_t){.queue = bytes_of("amq.rabbitmq.reply-to.g1h2AA.x"), .passive = 1};
    assert_false(shareable_method(AMQP_QUEUE_DECLARE_METHOD, &m, 3));
    amqp_queue_bind_t bind = {.queue = bytes_of("amq.rabbitmq.reply-to.g1h2AA.x")};
    assert_false(shareable_method(AMQP_QUEUE_BIND_METHOD, &bind, 3));
}

static void test_deletions(void **state)
{
    (void)state;
    amqp_queue_delete_t m = {.queue = bytes_of("q")};
    assert_true(shareable_method(AMQP_QUEUE_DELETE_METHOD, &m, 3));
    m.if_unused = 1;
    assert_false(shareable_method(AMQP_QUEUE_DELETE_METHOD, &m, 3));
    assert_true(method_leaves_nothing(AMQP_QUEUE_DELETE_METHOD, &m));
    m = (amqp_queue_delete_t){.queue = bytes_of("q"), .if_empty = 1};
    assert_false(shareable_method(AMQP_QUEUE_DELETE_METHOD, &m, 3));
    amqp_queue_purge_t purge = {.queue = bytes_of("q")};
    assert_false(shareable_method(AMQP_QUEUE_PURGE_METHOD, &purge, 3));
    assert_true(method_leaves_nothing(AMQP_QUEUE_PURGE_METHOD, &purge));
}

static void test_exchanges(void **state)
{
    (void)state;
    amqp_exchange_declare_t m = {.exchange = bytes_of("e"), .type = bytes_of("topic")};
    assert_true(shareable_method(AMQP_EXCHANGE_DECLARE_METHOD, &m, 3));
    m.type = bytes_of("x-delayed-message");
    assert_false(shareable_method(AMQP_EXCHANGE_DECLARE_METHOD, &m, 3));
    m.passive = 1;
    assert_true(shareable_method(AMQP_EXCHANGE_DECLARE_METHOD, &m, 3));
}

static void test_consuming_leaves_something(void **state)
{
    (void)state;
    assert_false(shareable_method(AMQP_BASIC_CONSUME_METHOD, NULL, 3));
    assert_false(method_leaves_nothing(AMQP_BASIC_CONSUME_METHOD, NULL));
    assert_false(shareable_method(AMQP_TX_SELECT_METHOD, NULL, 3));
}

/* A publish with this routing key, and a content header with these bytes behind its flags. */
static bool publishes(const char *key, uint16_t flags, const char *properties)
{
    uint8_t method[300] = {0, 60, 0, 40, 0, 0, 2, 'e', 'x', (uint8_t)strlen(key)};
    uint8_t header[300] = {0, 60, [12] = (uint8_t)(flags >> 8), [13] = (uint8_t)flags};
    memcpy(method + 10, key, strlen(key));
    memcpy(header + 14, properties, strlen(properties));
    return shareable_publish(method, 10 + strlen(key) + 1, header, 14 + strlen(properties));
}

static void test_publishes(void **state)
{
    enum { HEADERS = 0x2000, REPLY_TO = 0x0200 };
    (void)state;
    assert_true(publishes("", 0, ""));
    assert_true(publishes("amq.rabbitmq.reply-to", 0, ""));
    assert_true(publishes("amq.rabbitmq.reply-tox", 0, ""));
    assert_false(publishes("amq.rabbitmq.reply-to.", 0, ""));
    assert_false(publishes("amq.rabbitmq.reply-to.g1h2AA.x", 0, ""));
    assert_true(publishes("orders", HEADERS | REPLY_TO, "amq.rabbitmq.reply-to"));
    assert_false(publishes("orders", HEADERS, "CC amq.rabbitmq.reply-to amq.rabbitmq.reply-to.x"));
    assert_true(publishes("orders", REPLY_TO, "amq.rabbitmq.reply-to.x")); /* no routing key */
    assert_true(shareable_publish(NULL, 0, NULL, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_queues),
        cmocka_unit_test(test_deletions),
        cmocka_unit_test(test_exchanges),
        cmocka_unit_test(test_consuming_leaves_something),
        cmocka_unit_test(test_publishes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
