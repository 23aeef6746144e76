#include "amqp/rules.h"

#include <stddef.h>
#include <stdint.h>

/* Where a field is in a decoded method; 0: it has none. */
typedef uint16_t place;
#define AT(method, field) ((place)(offsetof(amqp_##method##_t, field) + 1))

#define QUEUE    AMQP_QUEUE_DECLARE_METHOD
#define EXCHANGE AMQP_EXCHANGE_DECLARE_METHOD

struct row {
    amqp_method_number_t method;
    unsigned rules;
    struct {
        amqp_method_number_t kind;
        place at;
    } names[RULE_NAMES_MAX];
    place default_queue, default_key, passive, nowait;
};

enum { DECLARES = RULE_TIDY | RULE_KEPT | RULE_HERE, OF_TX = RULE_HERE | RULE_TRANSACTION };

static const struct row rows[] = {
    {AMQP_EXCHANGE_DECLARE_METHOD,
     DECLARES,
     {{EXCHANGE, AT(exchange_declare, exchange)}},
     .passive = AT(exchange_declare, passive),
     .nowait = AT(exchange_declare, nowait)},
    {.method = AMQP_EXCHANGE_DECLARE_OK_METHOD, .rules = RULE_DONE},
    {AMQP_EXCHANGE_DELETE_METHOD,
     RULE_TIDY | RULE_TAKES,
     {{EXCHANGE, AT(exchange_delete, exchange)}},
     .nowait = AT(exchange_delete, nowait)},
    {AMQP_EXCHANGE_BIND_METHOD,
     DECLARES,
     {{EXCHANGE, AT(exchange_bind, destination)}, {EXCHANGE, AT(exchange_bind, source)}},
     .nowait = AT(exchange_bind, nowait)},
    {.method = AMQP_EXCHANGE_BIND_OK_METHOD, .rules = RULE_DONE},
    {AMQP_EXCHANGE_UNBIND_METHOD,
     RULE_TIDY | RULE_TAKES,
     {{EXCHANGE, AT(exchange_unbind, destination)}, {EXCHANGE, AT(exchange_unbind, source)}},
     .nowait = AT(exchange_unbind, nowait)},
    {AMQP_QUEUE_DECLARE_METHOD,
     DECLARES,
     {{QUEUE, AT(queue_declare, queue)}},
     .passive = AT(queue_declare, passive),
     .nowait = AT(queue_declare, nowait)},
    {.method = AMQP_QUEUE_DECLARE_OK_METHOD, .rules = RULE_DONE},
    {AMQP_QUEUE_BIND_METHOD,
     DECLARES,
     {{QUEUE, AT(queue_bind, queue)}, {EXCHANGE, AT(queue_bind, exchange)}},
     .default_queue = AT(queue_bind, queue),
     .default_key = AT(queue_bind, routing_key),
     .nowait = AT(queue_bind, nowait)},
    {.method = AMQP_QUEUE_BIND_OK_METHOD, .rules = RULE_DONE},
    {AMQP_QUEUE_UNBIND_METHOD,
     RULE_TIDY | RULE_TAKES,
     {{QUEUE, AT(queue_unbind, queue)}, {EXCHANGE, AT(queue_unbind, exchange)}},
     .default_queue = AT(queue_unbind, queue),
     .default_key = AT(queue_unbind, routing_key)},
    {AMQP_QUEUE_PURGE_METHOD,
     RULE_TIDY | RULE_TAKES,
     {{QUEUE, AT(queue_purge, queue)}},
     .default_queue = AT(queue_purge, queue),
     .nowait = AT(queue_purge, nowait)},
    {AMQP_QUEUE_DELETE_METHOD,
     RULE_TIDY | RULE_TAKES,
     {{QUEUE, AT(queue_delete, queue)}},
     .default_queue = AT(queue_delete, queue),
     .nowait = AT(queue_delete, nowait)},
    {.method = AMQP_BASIC_QOS_METHOD, .rules = RULE_HERE},
    {AMQP_BASIC_CONSUME_METHOD,
     RULE_CONSUMES,
     {{QUEUE, AT(basic_consume, queue)}},
     .default_queue = AT(basic_consume, queue),
     .nowait = AT(basic_consume, nowait)},
    {AMQP_BASIC_GET_METHOD,
     RULE_CONSUMES,
     {{QUEUE, AT(basic_get, queue)}},
     .default_queue = AT(basic_get, queue)},
    {.method = AMQP_TX_SELECT_METHOD, .rules = OF_TX},
    {.method = AMQP_TX_COMMIT_METHOD, .rules = OF_TX | RULE_ENDS},
    {.method = AMQP_TX_ROLLBACK_METHOD, .rules = OF_TX | RULE_ENDS},
};

static const struct row *find(amqp_method_number_t method)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].method == method)
            return &rows[i];
    return NULL;
}

static void *field(void *decoded, place at)
{
    return at ? (char *)decoded + at - 1 : NULL;
}

static const void *const_field(const void *decoded, place at)
{
    return at ? (const char *)decoded + at - 1 : NULL;
}

bool rule_has(amqp_method_number_t method, enum rule rule)
{
    const struct row *row = find(method);
    return row && (row->rules & rule);
}

bool rule_is_passive(amqp_method_number_t method, const void *decoded)
{
    const struct row *row = find(method);
    const amqp_boolean_t *passive = row ? const_field(decoded, row->passive) : NULL;
    return passive && *passive;
}

/* What a declaration names is there once it has succeeded. */
unsigned rule_names(amqp_method_number_t method, const void *decoded,
                    struct rule_name out[RULE_NAMES_MAX])
{
    const struct row *row = find(method);
    if (!row || (row->passive && !rule_is_passive(method, decoded)))
        return 0;
    unsigned count = 0;
    for (; count < RULE_NAMES_MAX && row->names[count].at; count++) {
        const amqp_bytes_t *name = const_field(decoded, row->names[count].at);
        out[count] = (struct rule_name){row->names[count].kind, *name};
    }
    return count;
}

amqp_bytes_t *rule_default_queue(amqp_method_number_t method, void *decoded)
{
    const struct row *row = find(method);
    return row ? field(decoded, row->default_queue) : NULL;
}

amqp_bytes_t *rule_default_key(amqp_method_number_t method, void *decoded)
{
    const struct row *row = find(method);
    return row ? field(decoded, row->default_key) : NULL;
}

amqp_boolean_t *rule_nowait(amqp_method_number_t method, void *decoded)
{
    const struct row *row = find(method);
    return row ? field(decoded, row->nowait) : NULL;
}
