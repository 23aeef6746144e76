#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/bytes.h"
#include "amqp/frame.h"
#include "amqp/method.h"
#include "amqp/table.h"

/* Of RabbitMQ 3.10 (amqp-rabbitmq-0.9.1.json), with what its channel and reader handle. */
static const struct {
    amqp_method_number_t number;
    const char *name;
    bool from_client;
} all_methods[] = {
    {AMQP_CONNECTION_START_METHOD, "connection.start", false},
    {AMQP_CONNECTION_START_OK_METHOD, "connection.start-ok", true},
    {AMQP_CONNECTION_SECURE_METHOD, "connection.secure", false},
    {AMQP_CONNECTION_SECURE_OK_METHOD, "connection.secure-ok", true},
    {AMQP_CONNECTION_TUNE_METHOD, "connection.tune", false},
    {AMQP_CONNECTION_TUNE_OK_METHOD, "connection.tune-ok", true},
    {AMQP_CONNECTION_OPEN_METHOD, "connection.open", true},
    {AMQP_CONNECTION_OPEN_OK_METHOD, "connection.open-ok", false},
    {AMQP_CONNECTION_CLOSE_METHOD, "connection.close", true},
    {AMQP_CONNECTION_CLOSE_OK_METHOD, "connection.close-ok", true},
    {AMQP_CONNECTION_BLOCKED_METHOD, "connection.blocked", false},
    {AMQP_CONNECTION_UNBLOCKED_METHOD, "connection.unblocked", false},
    {AMQP_CONNECTION_UPDATE_SECRET_METHOD, "connection.update-secret", true},
    {AMQP_CONNECTION_UPDATE_SECRET_OK_METHOD, "connection.update-secret-ok", false},
    {AMQP_CHANNEL_OPEN_METHOD, "channel.open", true},
    {AMQP_CHANNEL_OPEN_OK_METHOD, "channel.open-ok", false},
    {AMQP_CHANNEL_FLOW_METHOD, "channel.flow", true},
    {AMQP_CHANNEL_FLOW_OK_METHOD, "channel.flow-ok", false},
    {AMQP_CHANNEL_CLOSE_METHOD, "channel.close", true},
    {AMQP_CHANNEL_CLOSE_OK_METHOD, "channel.close-ok", true},
    {AMQP_ACCESS_REQUEST_METHOD, "access.request", true},
    {AMQP_ACCESS_REQUEST_OK_METHOD, "access.request-ok", false},
    {AMQP_EXCHANGE_DECLARE_METHOD, "exchange.declare", true},
    {AMQP_EXCHANGE_DECLARE_OK_METHOD, "exchange.declare-ok", false},
    {AMQP_EXCHANGE_DELETE_METHOD, "exchange.delete", true},
    {AMQP_EXCHANGE_DELETE_OK_METHOD, "exchange.delete-ok", false},
    {AMQP_EXCHANGE_BIND_METHOD, "exchange.bind", true},
    {AMQP_EXCHANGE_BIND_OK_METHOD, "exchange.bind-ok", false},
    {AMQP_EXCHANGE_UNBIND_METHOD, "exchange.unbind", true},
    {AMQP_EXCHANGE_UNBIND_OK_METHOD, "exchange.unbind-ok", false},
    {AMQP_QUEUE_DECLARE_METHOD, "queue.declare", true},
    {AMQP_QUEUE_DECLARE_OK_METHOD, "queue.declare-ok", false},
    {AMQP_QUEUE_BIND_METHOD, "queue.bind", true},
    {AMQP_QUEUE_BIND_OK_METHOD, "queue.bind-ok", false},
    {AMQP_QUEUE_PURGE_METHOD, "queue.purge", true},
    {AMQP_QUEUE_PURGE_OK_METHOD, "queue.purge-ok", false},
    {AMQP_QUEUE_DELETE_METHOD, "queue.delete", true},
    {AMQP_QUEUE_DELETE_OK_METHOD, "queue.delete-ok", false},
    {AMQP_QUEUE_UNBIND_METHOD, "queue.unbind", true},
    {AMQP_QUEUE_UNBIND_OK_METHOD, "queue.unbind-ok", false},
    {AMQP_BASIC_QOS_METHOD, "basic.qos", true},
    {AMQP_BASIC_QOS_OK_METHOD, "basic.qos-ok", false},
    {AMQP_BASIC_CONSUME_METHOD, "basic.consume", true},
    {AMQP_BASIC_CONSUME_OK_METHOD, "basic.consume-ok", false},
    {AMQP_BASIC_CANCEL_METHOD, "basic.cancel", true},
    {AMQP_BASIC_CANCEL_OK_METHOD, "basic.cancel-ok", false},
    {AMQP_BASIC_PUBLISH_METHOD, "basic.publish", true},
    {AMQP_BASIC_RETURN_METHOD, "basic.return", false},
    {AMQP_BASIC_DELIVER_METHOD, "basic.deliver", false},
    {AMQP_BASIC_GET_METHOD, "basic.get", true},
    {AMQP_BASIC_GET_OK_METHOD, "basic.get-ok", false},
    {AMQP_BASIC_GET_EMPTY_METHOD, "basic.get-empty", false},
    {AMQP_BASIC_ACK_METHOD, "basic.ack", true},
    {AMQP_BASIC_REJECT_METHOD, "basic.reject", true},
    {AMQP_BASIC_RECOVER_ASYNC_METHOD, "basic.recover-async", true},
    {AMQP_BASIC_RECOVER_METHOD, "basic.recover", true},
    {AMQP_BASIC_RECOVER_OK_METHOD, "basic.recover-ok", false},
    {AMQP_BASIC_NACK_METHOD, "basic.nack", true},
    {AMQP_CONFIRM_SELECT_METHOD, "confirm.select", true},
    {AMQP_CONFIRM_SELECT_OK_METHOD, "confirm.select-ok", false},
    {AMQP_TX_SELECT_METHOD, "tx.select", true},
    {AMQP_TX_SELECT_OK_METHOD, "tx.select-ok", false},
    {AMQP_TX_COMMIT_METHOD, "tx.commit", true},
    {AMQP_TX_COMMIT_OK_METHOD, "tx.commit-ok", false},
    {AMQP_TX_ROLLBACK_METHOD, "tx.rollback", true},
    {AMQP_TX_ROLLBACK_OK_METHOD, "tx.rollback-ok", false},
};
enum { METHODS = sizeof all_methods / sizeof *all_methods };

static void names_and_directions(void **state)
{
    (void)state;
    for (size_t i = 0; i < METHODS; i++) {
        assert_string_equal(method_name(all_methods[i].number), all_methods[i].name);
        assert_int_equal(method_known(all_methods[i].number), all_methods[i].from_client);
    }
    size_t named = 0;
    for (amqp_method_number_t class_id = 0; class_id < 256; class_id++) {
        for (amqp_method_number_t method = 0; method < 256; method++)
            named += method_name(class_id << 16 | method)[0] != '?';
    }
    assert_int_equal(named, METHODS);
    assert_string_equal(method_name(0), "?");
    assert_false(method_known(0));
    assert_false(method_known(UINT32_MAX));
}

static void number_of_short_payloads(void **state)
{
    (void)state;
    static const uint8_t payload[] = {0, 60, 0, 40};
    for (size_t len = 0; len < 4; len++)
        assert_int_equal(method_number(payload, len), 0);
    assert_int_equal(method_number(payload, 4), AMQP_BASIC_PUBLISH_METHOD);
}

static void what_is_wrong_with_it(void **state)
{
    (void)state;
    /* queue.declare: ticket, "q", bits, a table of one true boolean "k" */
    uint8_t payload[] = {0, 50, 0, 10, 0, 0, 1, 'q', 0, 0, 0, 0, 4, 1, 'k', 't', 1, 0};
    enum { LEN = sizeof payload - 1, NAME = 7, TABLE_LEN = 12, KIND = 15 };
    assert_int_equal(method_find_fault(payload, LEN), METHOD_FINE);
    for (size_t len = 4; len < LEN; len++)
        assert_int_equal(method_find_fault(payload, len), METHOD_CUT);
    assert_int_equal(method_find_fault(payload, LEN + 1), METHOD_CUT);
    payload[KIND] = 'Z';
    assert_int_equal(method_find_fault(payload, LEN), METHOD_BAD_TABLE);
    payload[NAME] = 0xFF;
    assert_int_equal(method_find_fault(payload, LEN), METHOD_BAD_TEXT);
    payload[TABLE_LEN]++;
    assert_int_equal(method_find_fault(payload, LEN), METHOD_CUT);
    payload[3] = 99;
    assert_int_equal(method_find_fault(payload, LEN), METHOD_FINE);
    assert_int_equal(method_find_fault(payload, 0), METHOD_FINE);
}

static void content_belongs_to_some(void **state)
{
    (void)state;
    unsigned count = 0;
    for (size_t i = 0; i < METHODS; i++)
        count += method_carries_content(all_methods[i].number);
    assert_int_equal(count, 4);
    assert_true(method_carries_content(AMQP_BASIC_PUBLISH_METHOD));
    assert_true(method_carries_content(AMQP_BASIC_DELIVER_METHOD));
    assert_false(method_carries_content(0));
}

/* Encodes, decodes, encodes again; checks each truncation and one byte too many. */
static void round_trip(amqp_method_number_t number, const void *fields)
{
    uint8_t frame[4096], again[4096];
    size_t size = method_encode(frame, sizeof frame, 9, number, fields);
    assert_true(size >= FRAME_OVERHEAD_BYTES + 4);
    for (size_t capacity = 0; capacity < size; capacity++)
        assert_int_equal(method_encode(again, capacity, 9, number, fields), 0);
    struct frame scanned;
    size_t need;
    assert_int_equal(frame_scan(frame, size, 0, &scanned, &need), FRAME_COMPLETE);
    assert_int_equal(scanned.type, FRAME_METHOD);
    assert_int_equal(scanned.channel, 9);

    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t seen;
    void *decoded;
    for (size_t len = 0; len < scanned.payload_len; len++)
        assert_false(method_decode(&arena, scanned.payload, len, &seen, &decoded));
    assert_false(method_decode(&arena, scanned.payload, scanned.payload_len + 1, &seen, &decoded));
    assert_true(method_decode(&arena, scanned.payload, scanned.payload_len, &seen, &decoded));
    assert_int_equal(seen, number);
    assert_int_equal(method_encode(again, sizeof again, 9, seen, decoded), size);
    assert_memory_equal(again, frame, size);
    method_arena_deinit(&arena);
}

static void every_method_round_trips(void **state)
{
    (void)state;
    static const uint8_t zeros[256];
    for (size_t i = 0; i < METHODS; i++)
        round_trip(all_methods[i].number, zeros);
}

static amqp_table_t some_arguments(void)
{
    static amqp_table_entry_t inner[1], entries[3];
    inner[0] = (amqp_table_entry_t){
        .key = bytes_of("deep"),
        .value = {.kind = AMQP_FIELD_KIND_I64, .value.i64 = -5},
    };
    entries[0] = (amqp_table_entry_t){
        .key = bytes_of("x-queue-type"),
        .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = bytes_of("quorum")},
    };
    entries[1] = (amqp_table_entry_t){
        .key = bytes_of("x-max-length"),
        .value = {.kind = AMQP_FIELD_KIND_I32, .value.i32 = 1000},
    };
    entries[2] = (amqp_table_entry_t){
        .key = bytes_of("nested"),
        .value = {.kind = AMQP_FIELD_KIND_TABLE, .value.table = {1, inner}},
    };
    return (amqp_table_t){3, entries};
}

static void filled_methods_round_trip(void **state)
{
    (void)state;
    round_trip(AMQP_CONNECTION_START_OK_METHOD,
               &(amqp_connection_start_ok_t){some_arguments(), bytes_of("PLAIN"),
                                             bytes_of("secret"), bytes_of("en_US")});
    round_trip(AMQP_CONNECTION_TUNE_METHOD, &(amqp_connection_tune_t){2047, 131072, 60});
    round_trip(AMQP_CHANNEL_CLOSE_METHOD,
               &(amqp_channel_close_t){404, bytes_of("NOT_FOUND - no exchange 'é'"), 60, 40});
    round_trip(AMQP_QUEUE_DECLARE_METHOD, &(amqp_queue_declare_t){.queue = bytes_of("orders"),
                                                                  .durable = 1,
                                                                  .nowait = 1,
                                                                  .arguments = some_arguments()});
    round_trip(AMQP_EXCHANGE_UNBIND_METHOD,
               &(amqp_exchange_unbind_t){.destination = bytes_of("to"),
                                         .source = bytes_of("from"),
                                         .routing_key = bytes_of("#"),
                                         .arguments = some_arguments()});
    round_trip(AMQP_BASIC_DELIVER_METHOD, &(amqp_basic_deliver_t){bytes_of("ctag"), UINT64_MAX, 1,
                                                                  bytes_of("ex"), bytes_of("key")});
    round_trip(AMQP_BASIC_GET_OK_METHOD,
               &(amqp_basic_get_ok_t){7, 1, bytes_of("ex"), bytes_of("key"), 99});
    round_trip(AMQP_BASIC_NACK_METHOD, &(amqp_basic_nack_t){UINT64_MAX, 1, 1});
    round_trip(AMQP_CONNECTION_UPDATE_SECRET_METHOD,
               &(amqp_connection_update_secret_t){bytes_of("token"), bytes_of("expired")});
}

static void update_secret_fields(void **state)
{
    (void)state;
    struct bytes b = {0};
    put32(&b, AMQP_CONNECTION_UPDATE_SECRET_METHOD);
    put_long_string(&b, "new token");
    put_short_string(&b, "why");
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t number;
    void *decoded;
    assert_true(method_decode(&arena, b.data, b.len, &number, &decoded));
    const amqp_connection_update_secret_t *fields = decoded;
    assert_int_equal(fields->new_secret.len, 9);
    assert_memory_equal(fields->new_secret.bytes, "new token", 9);
    assert_int_equal(fields->reason.len, 3);
    assert_memory_equal(fields->reason.bytes, "why", 3);
    method_arena_deinit(&arena);
    bytes_free(&b);
}

static bool purge_accepted(const char *queue)
{
    struct bytes b = {0};
    put32(&b, AMQP_QUEUE_PURGE_METHOD);
    put16(&b, 0);
    put_short_string(&b, queue);
    put8(&b, 0);
    bool accepted = method_check(b.data, b.len);
    bytes_free(&b);
    return accepted;
}

static void short_strings_are_utf8(void **state)
{
    (void)state;
    static const char *const good[] = {
        "", "plain", "\xC2\x80", "\xE0\xA0\x80", "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "a\xC3\xA9z"};
    static const char *const bad[] = {
        "\x80",             /* a continuation alone */
        "\xC3",             /* cut short */
        "\xE2\x82",         /* cut short */
        "\xC3\x28",         /* no continuation */
        "\xC1\xBF",         /* longer than needed */
        "\xE0\x9F\xBF",     /* longer than needed */
        "\xF0\x8F\xBF\xBF", /* longer than needed */
        "\xF8\x88\x80\x80\x80",
        "\xFF",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(purge_accepted(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(purge_accepted(bad[i]));
}

static void content_methods_need_no_utf8(void **state)
{
    (void)state;
    struct bytes b = {0};
    put32(&b, AMQP_BASIC_PUBLISH_METHOD);
    put16(&b, 0);
    put_short_string(&b, "\xFF");
    put_short_string(&b, "\xFE");
    put8(&b, 0);
    assert_true(method_check(b.data, b.len));
    bytes_free(&b);
}

/* queue.declare with `depth` tables or arrays within each other. */
static void put_deep_declare(struct bytes *b, unsigned depth, bool arrays)
{
    put32(b, AMQP_QUEUE_DECLARE_METHOD);
    put16(b, 0);
    put_short_string(b, "q");
    put8(b, 0);
    size_t *begin = malloc(depth * sizeof *begin);
    begin[0] = put_begin(b);
    for (unsigned i = 1; i < depth; i++) {
        if (i == 1 || !arrays)
            put_short_string(b, "k");
        put8(b, arrays ? 'A' : 'F');
        begin[i] = put_begin(b);
    }
    for (unsigned i = depth; i > 0; i--)
        put_end(b, begin[i - 1]);
    free(begin);
}

static void nesting_is_limited(void **state)
{
    (void)state;
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t number;
    void *decoded;
    for (unsigned arrays = 0; arrays < 2; arrays++) {
        static const unsigned depths[] = {1, 2, TABLE_DEPTH_MAX, TABLE_DEPTH_MAX + 1, 20000};
        for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
            struct bytes b = {0};
            put_deep_declare(&b, depths[i], arrays);
            assert_int_equal(method_decode(&arena, b.data, b.len, &number, &decoded),
                             depths[i] <= TABLE_DEPTH_MAX);
            bytes_free(&b);
        }
    }
    method_arena_deinit(&arena);
}

static void arena_does_not_grow(void **state)
{
    (void)state;
    struct bytes big = {0}, small = {0};
    put32(&big, AMQP_QUEUE_DECLARE_METHOD);
    put16(&big, 0);
    put_short_string(&big, "q");
    put8(&big, 0);
    size_t begin = put_begin(&big);
    for (unsigned i = 0; i < 10000; i++) { /* each inner table takes memory of its own */
        put_short_string(&big, "k");
        put8(&big, 'F');
        put32(&big, 2);
        put_short_string(&big, "");
        put8(&big, 'V');
    }
    put_end(&big, begin);
    put32(&small, AMQP_TX_COMMIT_METHOD);
    struct method_arena arena;
    method_arena_init(&arena);
    amqp_method_number_t number;
    void *decoded;
    assert_true(method_decode(&arena, big.data, big.len, &number, &decoded));
    int most = arena.pool.pages.num_blocks;
    for (unsigned i = 0; i < 5; i++) {
        assert_true(method_decode(&arena, big.data, big.len, &number, &decoded));
        assert_int_equal(arena.pool.pages.num_blocks, most);
    }
    assert_true(method_decode(&arena, small.data, small.len, &number, &decoded));
    assert_true(arena.pool.pages.num_blocks + arena.pool.large_blocks.num_blocks < 10);
    method_arena_deinit(&arena);
    bytes_free(&big);
    bytes_free(&small);
}

static void put_publish(struct bytes *b, const char *exchange, const char *routing_key,
                        unsigned bits)
{
    put32(b, AMQP_BASIC_PUBLISH_METHOD);
    put16(b, 0);
    put_short_string(b, exchange);
    put_short_string(b, routing_key);
    put8(b, bits);
}

static void publish_is_taken_apart(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 4; bits++) {
        struct bytes b = {0};
        put_publish(&b, "amq.topic", "a.b", bits);
        struct publish publish;
        assert_true(publish_parse(b.data, b.len, &publish));
        assert_int_equal(publish.exchange_len, 9);
        assert_memory_equal(publish.exchange, "amq.topic", 9);
        assert_int_equal(publish.routing_key_len, 3);
        assert_memory_equal(publish.routing_key, "a.b", 3);
        assert_int_equal(publish.mandatory, bits & 1);
        assert_int_equal(publish.immediate, bits >> 1);
        for (size_t len = 0; len < b.len; len++)
            assert_false(publish_parse(b.data, len, &publish));
        put8(&b, 0);
        assert_false(publish_parse(b.data, b.len, &publish));
        b.data[3]++; /* another method */
        assert_false(publish_parse(b.data, b.len - 1, &publish));
        bytes_free(&b);
    }
}

static void publish_parse_agrees_with_the_check(void **state)
{
    (void)state;
    uint64_t random = 7;
    size_t refused = 0;
    for (unsigned round = 0; round < 20000; round++) {
        struct bytes b = {0};
        struct publish publish;
        put_publish(&b, "exchange", "key", 0);
        b.data[4 + random_below(&random, b.len - 4)] = (uint8_t)random_next(&random);
        b.len -= random_below(&random, 4) == 0;
        bool accepted = publish_parse(b.data, b.len, &publish);
        assert_int_equal(accepted, method_check(b.data, b.len));
        refused += !accepted;
        bytes_free(&b);
    }
    assert_true(refused > 1000 && refused < 19000);
}

/* What the check accepts, librabbitmq must take whole; what it refuses must not be read wrong. */
static void random_damage(void **state)
{
    (void)state;
    uint64_t random = 11;
    struct method_arena arena;
    method_arena_init(&arena);
    size_t accepted = 0;
    for (unsigned round = 0; round < 20000; round++) {
        struct bytes b = {0};
        put32(&b, AMQP_QUEUE_BIND_METHOD);
        put16(&b, 0);
        put_short_string(&b, "queue");
        put_short_string(&b, "exchange");
        put_short_string(&b, "key");
        put8(&b, 0);
        put_random_table(&b, &random, 3);
        for (size_t n = random_below(&random, 3); n > 0; n--)
            b.data[4 + random_below(&random, b.len - 4)] = (uint8_t)random_next(&random);
        amqp_method_number_t number;
        void *decoded;
        if (method_decode(&arena, b.data, b.len, &number, &decoded)) {
            uint8_t frame[8192];
            size_t size = method_encode(frame, sizeof frame, 1, number, decoded);
            assert_int_equal(size, b.len + FRAME_OVERHEAD_BYTES);
            accepted++;
        }
        bytes_free(&b);
    }
    assert_true(accepted > 5000 && accepted < 19000);
    method_arena_deinit(&arena);
}

/* Every method with a no-wait bit, written by librabbitmq with and without it. */
static void no_wait_is_set_and_cleared(void **unused)
{
    (void)unused;
    amqp_bytes_t name = bytes_of("name");
#define CASE(method, type, ...)                                                                    \
    {                                                                                              \
        type fields[2] = {{.nowait = 0, __VA_ARGS__}, {.nowait = 1, __VA_ARGS__}};                 \
        uint8_t frames[2][256];                                                                    \
        size_t len = method_encode(frames[0], 256, 1, method, &fields[0]) - FRAME_OVERHEAD_BYTES;  \
        assert_int_equal(method_encode(frames[1], 256, 1, method, &fields[1]),                     \
                         len + FRAME_OVERHEAD_BYTES);                                              \
        assert_memory_not_equal(frames[0], frames[1], len + FRAME_OVERHEAD_BYTES);                 \
        assert_true(method_set_nowait(frames[1] + FRAME_HEAD_BYTES, len, false));                  \
        assert_memory_equal(frames[0], frames[1], len + FRAME_OVERHEAD_BYTES);                     \
        assert_false(method_set_nowait(frames[1] + FRAME_HEAD_BYTES, len, true));                  \
        assert_true(method_set_nowait(frames[1] + FRAME_HEAD_BYTES, len, true));                   \
        assert_true(method_is_answered(method));                                                   \
    }
    CASE(AMQP_EXCHANGE_DECLARE_METHOD, amqp_exchange_declare_t, .exchange = name, .type = name,
         .durable = 1)
    CASE(AMQP_EXCHANGE_DELETE_METHOD, amqp_exchange_delete_t, .exchange = name, .if_unused = 1)
    CASE(AMQP_EXCHANGE_BIND_METHOD, amqp_exchange_bind_t, .source = name, .destination = name)
    CASE(AMQP_EXCHANGE_UNBIND_METHOD, amqp_exchange_unbind_t, .routing_key = name)
    CASE(AMQP_QUEUE_DECLARE_METHOD, amqp_queue_declare_t, .queue = name, .auto_delete = 1)
    CASE(AMQP_QUEUE_BIND_METHOD, amqp_queue_bind_t, .queue = name, .exchange = name)
    CASE(AMQP_QUEUE_PURGE_METHOD, amqp_queue_purge_t, .queue = name)
    CASE(AMQP_QUEUE_DELETE_METHOD, amqp_queue_delete_t, .queue = name, .if_empty = 1)
    CASE(AMQP_BASIC_CONSUME_METHOD, amqp_basic_consume_t, .queue = name, .exclusive = 1)
    CASE(AMQP_BASIC_CANCEL_METHOD, amqp_basic_cancel_t, .consumer_tag = name)
#undef CASE
}

static void methods_without_no_wait_stay_as_they_are(void **unused)
{
    (void)unused;
    uint8_t frame[256], copy[256];
    amqp_queue_unbind_t unbind = {.queue = bytes_of("q"), .exchange = bytes_of("e")};
    amqp_basic_ack_t ack = {.delivery_tag = 1, .multiple = 1};
    size_t size = method_encode(frame, sizeof frame, 1, AMQP_QUEUE_UNBIND_METHOD, &unbind);
    memcpy(copy, frame, size);
    assert_false(method_set_nowait(frame + FRAME_HEAD_BYTES, size - FRAME_OVERHEAD_BYTES, true));
    assert_memory_equal(frame, copy, size);
    assert_true(method_is_answered(AMQP_QUEUE_UNBIND_METHOD));
    size = method_encode(frame, sizeof frame, 1, AMQP_BASIC_ACK_METHOD, &ack);
    memcpy(copy, frame, size);
    assert_false(method_set_nowait(frame + FRAME_HEAD_BYTES, size - FRAME_OVERHEAD_BYTES, false));
    assert_memory_equal(frame, copy, size);
    assert_false(method_is_answered(AMQP_BASIC_ACK_METHOD));
    assert_false(method_is_answered(AMQP_QUEUE_DECLARE_OK_METHOD));
    assert_false(method_set_nowait(frame, 2, true));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_directions),
        cmocka_unit_test(number_of_short_payloads),
        cmocka_unit_test(what_is_wrong_with_it),
        cmocka_unit_test(content_belongs_to_some),
        cmocka_unit_test(every_method_round_trips),
        cmocka_unit_test(filled_methods_round_trip),
        cmocka_unit_test(update_secret_fields),
        cmocka_unit_test(short_strings_are_utf8),
        cmocka_unit_test(content_methods_need_no_utf8),
        cmocka_unit_test(nesting_is_limited),
        cmocka_unit_test(arena_does_not_grow),
        cmocka_unit_test(publish_is_taken_apart),
        cmocka_unit_test(publish_parse_agrees_with_the_check),
        cmocka_unit_test(random_damage),
        cmocka_unit_test(no_wait_is_set_and_cleared),
        cmocka_unit_test(methods_without_no_wait_stay_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
