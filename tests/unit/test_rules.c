#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "amqp/rules.h"

#define QUEUE    AMQP_QUEUE_DECLARE_METHOD
#define EXCHANGE AMQP_EXCHANGE_DECLARE_METHOD

/* Every method that a client may send, with what is known of it. */
static const struct {
    amqp_method_number_t method;
    unsigned rules;
} known[] = {
    {AMQP_CHANNEL_FLOW_METHOD, 0},
    {AMQP_EXCHANGE_DECLARE_METHOD, RULE_TIDY | RULE_KEPT | RULE_HERE},
    {AMQP_EXCHANGE_DELETE_METHOD, RULE_TIDY | RULE_TAKES},
    {AMQP_EXCHANGE_BIND_METHOD, RULE_TIDY | RULE_KEPT | RULE_HERE},
    {AMQP_EXCHANGE_UNBIND_METHOD, RULE_TIDY | RULE_TAKES},
    {AMQP_QUEUE_DECLARE_METHOD, RULE_TIDY | RULE_KEPT | RULE_HERE},
    {AMQP_QUEUE_BIND_METHOD, RULE_TIDY | RULE_KEPT | RULE_HERE},
    {AMQP_QUEUE_PURGE_METHOD, RULE_TIDY | RULE_TAKES},
    {AMQP_QUEUE_DELETE_METHOD, RULE_TIDY | RULE_TAKES},
    {AMQP_QUEUE_UNBIND_METHOD, RULE_TIDY | RULE_TAKES},
    {AMQP_BASIC_QOS_METHOD, RULE_HERE},
    {AMQP_BASIC_CONSUME_METHOD, RULE_CONSUMES},
    {AMQP_BASIC_CANCEL_METHOD, 0},
    {AMQP_BASIC_PUBLISH_METHOD, 0},
    {AMQP_BASIC_GET_METHOD, RULE_CONSUMES},
    {AMQP_BASIC_ACK_METHOD, 0},
    {AMQP_BASIC_REJECT_METHOD, 0},
    {AMQP_BASIC_RECOVER_METHOD, 0},
    {AMQP_BASIC_NACK_METHOD, 0},
    {AMQP_TX_SELECT_METHOD, RULE_HERE | RULE_TRANSACTION},
    {AMQP_TX_COMMIT_METHOD, RULE_HERE | RULE_TRANSACTION | RULE_ENDS},
    {AMQP_TX_ROLLBACK_METHOD, RULE_HERE | RULE_TRANSACTION | RULE_ENDS},
    {AMQP_EXCHANGE_DECLARE_OK_METHOD, RULE_DONE},
    {AMQP_EXCHANGE_BIND_OK_METHOD, RULE_DONE},
    {AMQP_QUEUE_DECLARE_OK_METHOD, RULE_DONE},
    {AMQP_QUEUE_BIND_OK_METHOD, RULE_DONE},
    {AMQP_EXCHANGE_DELETE_OK_METHOD, 0},
    {AMQP_QUEUE_DELETE_OK_METHOD, 0},
    {AMQP_TX_COMMIT_OK_METHOD, 0},
    {0, 0},
};

static void test_each_method_has_its_rules(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        for (unsigned rule = 1; rule <= RULE_ENDS; rule *= 2)
            assert_int_equal(rule_has(known[i].method, (enum rule)rule),
                             (known[i].rules & rule) != 0);
}

static void assert_name(const struct rule_name *name, amqp_method_number_t kind, const char *text)
{
    assert_int_equal(name->kind, kind);
    assert_int_equal(name->name.len, strlen(text));
    assert_memory_equal(name->name.bytes, text, strlen(text));
}

static void test_names_of_bindings(void **state)
{
    (void)state;
    struct rule_name names[RULE_NAMES_MAX];
    amqp_queue_bind_t bind = {.queue = bytes_of("q"), .exchange = bytes_of("x")};
    assert_int_equal(rule_names(AMQP_QUEUE_BIND_METHOD, &bind, names), 2);
    assert_name(&names[0], QUEUE, "q");
    assert_name(&names[1], EXCHANGE, "x");
    amqp_exchange_unbind_t unbind = {.destination = bytes_of("to"), .source = bytes_of("from")};
    assert_int_equal(rule_names(AMQP_EXCHANGE_UNBIND_METHOD, &unbind, names), 2);
    assert_name(&names[0], EXCHANGE, "to");
    assert_name(&names[1], EXCHANGE, "from");
}

static void test_a_declaration_needs_nothing_unless_it_is_passive(void **state)
{
    (void)state;
    struct rule_name names[RULE_NAMES_MAX];
    amqp_queue_declare_t queue = {.queue = bytes_of("q")};
    assert_int_equal(rule_names(QUEUE, &queue, names), 0);
    assert_false(rule_is_passive(QUEUE, &queue));
    assert_null(rule_default_queue(QUEUE, &queue));
    queue.passive = 1;
    assert_int_equal(rule_names(QUEUE, &queue, names), 1);
    assert_name(&names[0], QUEUE, "q");
    assert_true(rule_is_passive(QUEUE, &queue));
    assert_null(rule_default_queue(QUEUE, &queue));
    amqp_exchange_declare_t exchange = {.exchange = bytes_of("x"), .passive = 1};
    assert_int_equal(rule_names(EXCHANGE, &exchange, names), 1);
    assert_name(&names[0], EXCHANGE, "x");
    assert_null(rule_default_queue(EXCHANGE, &exchange));
}

static void test_fields_that_may_be_left_empty(void **state)
{
    (void)state;
    amqp_basic_consume_t consume = {0};
    assert_ptr_equal(rule_default_queue(AMQP_BASIC_CONSUME_METHOD, &consume), &consume.queue);
    assert_null(rule_default_key(AMQP_BASIC_CONSUME_METHOD, &consume));
    assert_ptr_equal(rule_nowait(AMQP_BASIC_CONSUME_METHOD, &consume), &consume.nowait);
    amqp_basic_get_t get = {0};
    assert_ptr_equal(rule_default_queue(AMQP_BASIC_GET_METHOD, &get), &get.queue);
    assert_null(rule_nowait(AMQP_BASIC_GET_METHOD, &get));
    amqp_queue_unbind_t unbind = {0};
    assert_ptr_equal(rule_default_queue(AMQP_QUEUE_UNBIND_METHOD, &unbind), &unbind.queue);
    assert_ptr_equal(rule_default_key(AMQP_QUEUE_UNBIND_METHOD, &unbind), &unbind.routing_key);
    assert_null(rule_nowait(AMQP_QUEUE_UNBIND_METHOD, &unbind));
    assert_null(rule_default_queue(AMQP_BASIC_ACK_METHOD, NULL));
    assert_null(rule_default_key(AMQP_BASIC_ACK_METHOD, NULL));
    assert_null(rule_nowait(AMQP_BASIC_ACK_METHOD, NULL));
    assert_false(rule_is_passive(AMQP_BASIC_ACK_METHOD, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_method_has_its_rules),
        cmocka_unit_test(test_names_of_bindings),
        cmocka_unit_test(test_a_declaration_needs_nothing_unless_it_is_passive),
        cmocka_unit_test(test_fields_that_may_be_left_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
