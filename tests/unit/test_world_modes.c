/* spool.mode, pool.confirm_transient, transactions and calls: what goes to RabbitMQ at once, what
 * is stored first, and what waits for what. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../world/world.h"
#include "amqp/wire.h"
#include "base/log.h"

static int quiet(void **state)
{
    (void)state;
    log_init(LOG_ERROR, LOG_LOGFMT);
    return 0;
}

static void begin(const char *a, const char *b)
{
    world_begin((const char *[]){"pool.publish_buffer_size=1000", a, a ? b : NULL, NULL});
}

static void expect_refused(struct peer *p, uint16_t code)
{
    const amqp_connection_close_t *close = peer_expect(p, 0, AMQP_CONNECTION_CLOSE_METHOD);
    assert_int_equal(close->reply_code, code);
    peer_send_plain(p, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
    peer_expect_end(p);
}

static void select_tx(struct peer *p)
{
    peer_send_plain(p, 1, AMQP_TX_SELECT_METHOD);
    peer_expect(p, 1, AMQP_TX_SELECT_OK_METHOD);
}

static void commit(struct peer *p)
{
    peer_send_plain(p, 1, AMQP_TX_COMMIT_METHOD);
    peer_expect(p, 1, AMQP_TX_COMMIT_OK_METHOD);
}

static void expect_bodies(const char *const *bodies)
{
    unsigned count = 0;
    for (; bodies[count]; count++)
        assert_string_equal(broker.bodies[count], bodies[count]);
    assert_int_equal(broker.published, count);
}

/* ---- spool.mode ---- */

static void test_slow_begins_with_a_late_confirm_and_ends_with_an_early_one(void **state)
{
    (void)state;
    begin("spool.mode=slow", "spool.slow_after=500ms");
    struct peer *p = peer_confirming();
    peer_publish(p, 1, "q", "fast");
    peer_expect_ack(p, 1);
    assert_false(world_queue()->is_slow);
    broker.confirms = BROKER_SILENT;
    peer_publish(p, 1, "q", "late");
    world_pass(1000);
    assert_true(world_queue()->is_slow);
    peer_expect_ack(p, 2); /* of the spool */
    peer_publish(p, 1, "q", "stored");
    peer_expect_ack(p, 3);
    assert_int_equal(disk.appended, 2);
    broker.confirms = BROKER_ACKS;
    broker_confirm_all();
    world_pass(2000);
    assert_int_equal(disk_count(false), 0);
    assert_false(world_queue()->is_slow);
    peer_publish(p, 1, "q", "live");
    peer_expect_ack(p, 4);
    assert_int_equal(disk.appended, 2);
    expect_bodies((const char *[]){"fast", "late", "stored", "live", NULL});
    peer_close(p);
}

static void test_always_keeps_its_drain_while_somebody_publishes(void **state)
{
    (void)state;
    begin("spool.mode=always", NULL);
    struct peer *p = peer_confirming();
    for (unsigned i = 0; i < 3; i++) {
        peer_publish(p, 1, "q", "one");
        peer_expect_ack(p, i + 1);
        world_pass(1000);
        assert_int_equal(broker.published, i + 1);
        assert_int_equal(disk_count(false), 0);
        assert_non_null(world_queue()->backlog.drain);
    }
    assert_string_equal(broker.last_call, "confirm.select"); /* of the drain, once */
    peer_close(p);
}

static void test_a_drain_that_stays_takes_over_settings(void **state)
{
    (void)state;
    begin("spool.mode=always", NULL);
    struct peer *p = peer_confirming();
    peer_publish(p, 1, "q", "one");
    peer_expect_ack(p, 1);
    world_pass(1000);
    world.config.drain.confirms = CONFIRMS_OFF;
    queue_reconfigured(world_queue());
    broker.confirms = BROKER_SILENT; /* a close-ok proves what nobody confirms */
    peer_publish(p, 1, "q", "two");
    peer_expect_ack(p, 2);
    world_pass(5000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(broker.published, 2);
    peer_close(p);
}

/* A record does not say what its token may do. */
static void test_messages_of_tokens_are_not_stored_while_rabbitmq_is_there(void **state)
{
    (void)state;
    begin("spool.mode=always", NULL);
    uint16_t code = 0;
    struct peer *p = peer_login_as("svc", "eyJhIjoxfQ.eyJzdWIiOiJBIn0.c2ln", "/", &code);
    assert_non_null(p);
    peer_open_confirming(p, 1);
    peer_publish(p, 1, "q", "one");
    peer_expect_ack(p, 1);
    assert_int_equal(broker.published, 1);
    assert_int_equal(disk.appended, 0);
    peer_close(p);
}

/* ---- transactions of who consumes ---- */

static void test_a_transaction_of_a_consumer_does_not_overtake_what_it_has_stored(void **state)
{
    (void)state;
    begin("spool.mode=always", "drain.window=1");
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    peer_consume(p);
    broker.confirms = BROKER_SILENT;
    peer_publish(p, 1, "q", "0");
    peer_publish(p, 1, "q", "1");
    world_run();
    assert_int_equal(disk_count(false), 2);
    select_tx(p);
    peer_publish(p, 1, "q", "2");
    commit(p);
    assert_int_equal(broker.published, 1);
    assert_int_equal(disk_count(false), 3);
    for (unsigned i = 0; i < 3; i++)
        broker_confirm_all();
    expect_bodies((const char *[]){"0", "1", "2", NULL});
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
}

/* Its publishes are here, its acks are there: both are committed. */
static void test_acks_of_a_stored_transaction_are_committed(void **state)
{
    (void)state;
    begin("spool.mode=always", NULL);
    struct peer *p = peer_login(), *other = peer_login();
    peer_open_channel(p, 1);
    peer_open_channel(other, 1);
    select_tx(p);
    peer_consume(p);
    broker_deliver(1, "tag", 1, "work");
    struct frame frame;
    peer_expect(p, 1, AMQP_BASIC_DELIVER_METHOD);
    assert_int_equal(peer_read(p, &frame), FRAME_HEADER);
    assert_int_equal(peer_read(p, &frame), FRAME_BODY);
    broker.confirms = BROKER_SILENT;
    peer_publish(other, 1, "q", "waits");
    world_run();
    peer_publish(p, 1, "q", "behind it");
    amqp_basic_ack_t ack = {.delivery_tag = 1};
    peer_send_method(p, 1, AMQP_BASIC_ACK_METHOD, &ack);
    world_run();
    assert_string_equal(broker.last_call, "basic.ack");
    commit(p);
    assert_string_equal(broker.last_call, "tx.commit");
    assert_int_equal(disk.appended, 2);
    peer_expect_nothing(p);
    peer_close(p);
    peer_close(other);
    broker_confirm_all();
}

/* Nothing that RabbitMQ could answer at once overtakes the spool's answer. */
static void test_what_follows_a_stored_commit_is_answered_behind_it(void **state)
{
    (void)state;
    begin("spool.mode=always", NULL);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    select_tx(p);
    peer_publish(p, 1, "q", "stored");
    disk.hangs = true;
    peer_send_plain(p, 1, AMQP_TX_COMMIT_METHOD);
    peer_send_plain(p, 1, AMQP_TX_ROLLBACK_METHOD);
    amqp_queue_declare_t declare = {.queue = bytes_of("q"), .passive = true};
    peer_send_method(p, 1, AMQP_QUEUE_DECLARE_METHOD, &declare);
    peer_expect_nothing(p);
    assert_int_equal(broker_heard("queue.declare"), 0);
    disk.hangs = false;
    peer_expect(p, 1, AMQP_TX_COMMIT_OK_METHOD);
    peer_expect(p, 1, AMQP_TX_ROLLBACK_OK_METHOD);
    peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
    expect_bodies((const char *[]){"stored", NULL});
    peer_close(p);
}

/* It ends what was published before it, and nothing that came behind. */
static void test_a_rollback_that_is_lost_takes_nothing_behind_it(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    select_tx(p);
    peer_publish(p, 1, "q", "rolled back");
    broker.silent_on = AMQP_TX_ROLLBACK_METHOD;
    peer_send_plain(p, 1, AMQP_TX_ROLLBACK_METHOD);
    peer_publish(p, 1, "q", "committed");
    peer_expect_nothing(p);
    broker.silent_on = 0;
    broker_down();
    peer_expect(p, 1, AMQP_TX_ROLLBACK_OK_METHOD);
    commit(p);
    assert_int_equal(disk_count(false), 1);
    assert_string_equal(disk_body(0), "committed");
    peer_close(p);
    broker_up();
    world_pass(60000);
    assert_int_equal(disk_count(false), 0);
}

/* It has nothing to commit, and what came behind it is not committed. */
static void test_a_commit_that_is_lost_takes_nothing_behind_it(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    select_tx(p);
    broker.silent_on = AMQP_TX_COMMIT_METHOD;
    peer_send_plain(p, 1, AMQP_TX_COMMIT_METHOD);
    peer_publish(p, 1, "q", "rolled back");
    peer_expect_nothing(p);
    broker.silent_on = 0;
    broker_down();
    peer_expect(p, 1, AMQP_TX_COMMIT_OK_METHOD);
    peer_send_plain(p, 1, AMQP_TX_ROLLBACK_METHOD);
    peer_expect(p, 1, AMQP_TX_ROLLBACK_OK_METHOD);
    assert_int_equal(disk.appended, 0);
    peer_close(p);
}

/* They are behind a method that RabbitMQ alone can answer. */
static void test_ends_that_are_sent_again_take_nothing_behind_them(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    select_tx(p);
    broker.silent_calls = true;
    amqp_queue_unbind_t unbind = {.queue = bytes_of("q"), .exchange = bytes_of("e")};
    peer_send_method(p, 1, AMQP_QUEUE_UNBIND_METHOD, &unbind);
    peer_send_plain(p, 1, AMQP_TX_COMMIT_METHOD);
    peer_send_plain(p, 1, AMQP_TX_ROLLBACK_METHOD);
    peer_publish(p, 1, "q", "committed");
    peer_expect_nothing(p);
    unsigned ends = broker_heard("tx.commit") + broker_heard("tx.rollback");
    assert_int_equal(ends, 2);
    broker.silent_calls = false;
    broker_cut();
    world_pass(5000);
    peer_expect(p, 1, AMQP_QUEUE_UNBIND_OK_METHOD);
    peer_expect(p, 1, AMQP_TX_COMMIT_OK_METHOD);
    peer_expect(p, 1, AMQP_TX_ROLLBACK_OK_METHOD);
    assert_int_equal(broker_heard("tx.commit") + broker_heard("tx.rollback"), ends);
    assert_int_equal(disk.appended, 0);
    commit(p);
    assert_int_equal(disk.appended + broker_heard("tx.commit"), 2);
    peer_close(p);
    world_pass(60000);
    assert_int_equal(disk_count(false), 0);
}

/* There is no word of the proxy's own before RabbitMQ's about a message that is wrong. */
static void test_a_select_is_answered_behind_what_was_published(void **state)
{
    (void)state;
    static const amqp_method_number_t selects[] = {AMQP_CONFIRM_SELECT_METHOD,
                                                   AMQP_TX_SELECT_METHOD};
    begin(NULL, NULL);
    for (unsigned i = 0; i < 2; i++) {
        struct peer *p = peer_login();
        i == 0 ? peer_open_channel(p, 1) : peer_open_confirming(p, 1);
        broker.close_code = 406;
        peer_publish(p, 1, "q", "!wrong");
        peer_send_plain(p, 1, selects[i]);
        const amqp_channel_close_t *close = peer_expect(p, 1, AMQP_CHANNEL_CLOSE_METHOD);
        assert_int_equal(close->method_id, 40);
        peer_send_plain(p, 1, AMQP_CHANNEL_CLOSE_OK_METHOD);
        peer_expect_nothing(p);
        peer_close(p);
    }
}

static void test_a_select_waits_no_longer_than_for_a_confirm(void **state)
{
    (void)state;
    for (unsigned buffers = 0; buffers < 2; buffers++) {
        world_begin(
            (const char *[]){buffers ? "pool.publish_buffer_size=10" : "pool.publish_buffer_size=0",
                             "upstream.heartbeat=0", NULL});
        struct peer *p = peer_login();
        for (uint16_t channel = 1; channel <= 2; channel++) {
            peer_open_channel(p, channel);
            peer_publish(p, channel, "q", "~late");
            peer_send_plain(p, channel, AMQP_CONFIRM_SELECT_METHOD);
            peer_expect_nothing(p);
            if (channel == 1)
                broker_confirm_all();
            else
                world_pass(world.config.pool.confirm_timeout_ms + 1000);
            peer_expect(p, channel, AMQP_CONFIRM_SELECT_OK_METHOD);
        }
        broker_confirm_all();
        world_pass(1000);
        peer_close(p);
        assert_int_equal(world_teardown(NULL), 0);
    }
    begin(NULL, NULL);
}

/* What is asked in between is RabbitMQ's to answer, once it is back. */
static void test_a_transaction_begun_in_an_outage_hinders_no_call(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    broker_down();
    select_tx(p);
    peer_publish(p, 1, "q", "one");
    world_run();
    broker_up();
    world_pass(5000);
    amqp_queue_purge_t purge = {.queue = bytes_of("other")};
    peer_send_method(p, 1, AMQP_QUEUE_PURGE_METHOD, &purge);
    world_pass(1000);
    peer_expect(p, 1, AMQP_QUEUE_PURGE_OK_METHOD);
    peer_publish(p, 1, "q", "two");
    world_run();
    assert_int_equal(broker.published, 0);
    commit(p);
    assert_int_equal(disk.appended, 2);
    peer_close(p);
    world_pass(60000);
    expect_bodies((const char *[]){"one", "two", NULL});
}

/* ---- before anything can be stored ---- */

static void test_a_transaction_stays_where_it_began(void **state)
{
    (void)state;
    begin("spool.mode=always", NULL); /* what begins later is stored first */
    disk.is_full = true;
    struct peer *p = peer_login();
    assert_int_equal(world_queue()->backlog.id, 0);
    peer_open_channel(p, 1);
    select_tx(p);
    peer_publish(p, 1, "q", "there");
    world_run();
    assert_int_equal(broker.published, 1);
    disk.is_full = false;
    peer_close(peer_login());
    assert_true(world_queue()->backlog.id > 0);
    peer_publish(p, 1, "q", "too");
    commit(p);
    assert_string_equal(broker.last_call, "tx.commit");
    assert_int_equal(disk.appended, 0);
    expect_bodies((const char *[]){"there", "too", NULL});
    peer_close(p);
}

static void test_a_login_that_is_not_stored_has_its_bound_all_the_same(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=3", NULL});
    disk.is_full = true;
    struct peer *p = peer_confirming();
    broker.confirms = BROKER_SILENT;
    for (unsigned i = 0; i < 5; i++)
        peer_publish(p, 1, "q", "one");
    world_run();
    assert_int_equal(broker.published, 3);
    assert_int_equal(world_queue()->retained, 3);
    broker_confirm_all();
    assert_int_equal(broker.published, 5);
    peer_die(p);
    broker_confirm_all();
}

/* A close-ok would say that the message is safe (P1). */
static void test_a_nack_that_nobody_hears_and_the_disk_does_not_take(void **state)
{
    (void)state;
    begin(NULL, NULL);
    disk.is_full = true;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    broker.confirms = BROKER_NACKS;
    peer_publish(p, 1, "q", "one");
    expect_refused(p, 506);
}

/* ---- pool.confirm_transient ---- */

static void publish_persistent(struct peer *p, const char *key, const char *body)
{
    peer_publish_with(p, 1, key, body, 1 << 12, "\x02", 1, false);
}

static void test_only_what_is_transient_is_forgotten(void **state)
{
    (void)state;
    begin("pool.confirm_transient=no", NULL);
    broker.confirms = BROKER_SILENT;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    peer_publish(p, 1, "q", "transient");
    world_run();
    assert_int_equal(broker.published, 1);
    assert_int_equal(world_queue()->retained, 0);
    peer_open_channel(p, 2);
    struct peer *other = peer_login(), *apart = peer_login();
    peer_open_channel(other, 1);
    publish_persistent(other, "q", "persistent");
    world_run();
    assert_int_equal(world_queue()->retained, 1);
    peer_publish_to(p, 2, "", "q", "mandatory", true);
    world_run();
    assert_int_equal(world_queue()->retained, 2);
    peer_open_channel(apart, 1);
    peer_consume(apart);
    peer_publish(apart, 1, "q", "of a consumer");
    world_run();
    assert_int_equal(world_queue()->retained, 3);
    assert_int_equal(broker.published, 4);
    broker_confirm_all();
    assert_int_equal(world_queue()->retained, 0);
    peer_close(p);
    peer_close(other);
    peer_close(apart);
}

/* What was sent and forgotten is proven by a close, and what follows to elsewhere waits for it. */
static void test_a_close_proves_what_was_forgotten(void **state)
{
    (void)state;
    begin("pool.confirm_transient=no", NULL);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    peer_publish(p, 1, "q", "transient");
    world_run();
    broker.silent_calls = true;
    amqp_basic_consume_t m = {.queue = bytes_of("q"), .consumer_tag = bytes_of("tag")};
    peer_send_method(p, 1, AMQP_BASIC_CONSUME_METHOD, &m);
    peer_expect_nothing(p);
    assert_string_equal(broker.last_call, "channel.close");
    broker.silent_calls = false;
    broker_say(1, AMQP_CHANNEL_CLOSE_OK_METHOD, &(amqp_channel_close_ok_t){0});
    peer_expect(p, 1, AMQP_BASIC_CONSUME_OK_METHOD);
    assert_int_equal(broker.connections, 2);
    peer_close(p);
}

static void test_nothing_is_sent_behind_a_close_that_proves(void **state)
{
    (void)state;
    begin("pool.confirm_transient=no", NULL);
    struct peer *doubted = peer_confirming(), *p = peer_login();
    peer_publish(doubted, 1, "q", "~doubted");
    world_pass(world.config.pool.confirm_timeout_ms + 1000);
    assert_int_equal(disk_count(false), 1);
    peer_expect_ack(doubted, 1);
    peer_open_channel(p, 1);
    peer_publish(p, 1, "elsewhere", "forgotten");
    world_run();
    assert_int_equal(broker.published, 2);
    broker.silent_calls = true;
    peer_publish(p, 1, "q", "behind it"); /* through the spool, when the close is answered */
    world_run();
    assert_string_equal(broker.last_call, "channel.close");
    broker_confirm_all(); /* no doubt any more: live, and not on that channel */
    assert_int_equal(broker.published, 2);
    broker.silent_calls = false;
    broker_say(2, AMQP_CHANNEL_CLOSE_OK_METHOD, &(amqp_channel_close_ok_t){0});
    assert_int_equal(broker.published, 3);
    assert_int_equal(disk.appended, 1);
    peer_close(p);
    peer_close(doubted);
}

/* RabbitMQ gives no confirms, so only a close could prove its publishes: and end its consumer. */
static void test_a_consumers_channel_is_not_closed_to_prove(void **state)
{
    (void)state;
    begin(NULL, NULL);
    broker.offers_confirms = false;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    peer_consume(p);
    const struct stream *own = broker_last_stream();
    peer_publish(p, 1, "q", "0");
    world_run();
    assert_int_equal(broker.published, 1);
    world.config.spool.mode = MODE_ALWAYS;
    queue_reconfigured(world_queue());
    peer_publish(p, 1, "q", "1");
    peer_publish(p, 1, "q", "2");
    world_pass(5000);
    assert_int_equal(broker.published, 3);
    assert_ptr_equal(broker_last_stream(), own);
    broker_deliver(1, "tag", 1, "work");
    peer_expect(p, 1, AMQP_BASIC_DELIVER_METHOD);
    peer_die(p);
}

/* ---- calls ---- */

static void declare(struct peer *p, const char *name)
{
    amqp_queue_declare_t m = {.queue = bytes_of(name), .durable = 1};
    peer_send_method(p, 1, AMQP_QUEUE_DECLARE_METHOD, &m);
}

static void test_an_error_of_the_proxys_own_comes_behind_answers(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_confirming();
    broker.silent_calls = true;
    declare(p, "q");
    peer_send_plain(p, 1, AMQP_TX_SELECT_METHOD); /* not on a channel with confirms */
    peer_expect_nothing(p);
    broker.silent_calls = false;
    broker_say(1, AMQP_QUEUE_DECLARE_OK_METHOD, &(amqp_queue_declare_ok_t){.queue = bytes_of("q")});
    peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
    const amqp_channel_close_t *close = peer_expect(p, 1, AMQP_CHANNEL_CLOSE_METHOD);
    assert_int_equal(close->reply_code, 406);
    peer_send_plain(p, 1, AMQP_CHANNEL_CLOSE_OK_METHOD);
    peer_close(p);
}

static void send_large_declare(struct peer *p)
{
    enum { SIZE = 100000 };
    static char value[SIZE];
    static uint8_t frame[SIZE + FRAME_MIN_SIZE];
    memset(value, 'x', sizeof value);
    amqp_table_entry_t entry = {bytes_of("x-large"),
                                {AMQP_FIELD_KIND_UTF8, {.bytes = {sizeof value, value}}}};
    amqp_queue_declare_t m = {.queue = bytes_of("q"), .arguments = {1, &entry}};
    size_t size = method_encode(frame, sizeof frame, 1, AMQP_QUEUE_DECLARE_METHOD, &m);
    assert_true(size > 0);
    peer_send(p, frame, size);
}

static void test_what_is_asked_of_a_silent_rabbitmq_has_a_bound(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    broker.silent_calls = true;
    for (unsigned i = 0; i < 20; i++)
        send_large_declare(p);
    world_run();
    unsigned before = broker.calls;
    peer_expect_nothing(p);
    broker.silent_calls = false;
    unsigned answered = 0;
    for (; answered < 20; answered++) {
        broker_say(1, AMQP_QUEUE_DECLARE_OK_METHOD,
                   &(amqp_queue_declare_ok_t){.queue = bytes_of("q")});
        peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
        if (broker.calls > before)
            break;
    }
    assert_true(answered < 12); /* a megabyte of them, and the rest was held */
    for (answered++; answered < 20; answered++) {
        broker_say(1, AMQP_QUEUE_DECLARE_OK_METHOD,
                   &(amqp_queue_declare_ok_t){.queue = bytes_of("q")});
    }
    world_run();
    peer_die(p);
}

static void test_a_consume_waits_for_the_declaration_in_the_spool(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    broker_down();
    declare(p, "q");
    peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
    disk.hangs = true; /* the drain reads nothing yet */
    broker_up();
    for (unsigned i = 0; i < 100 && broker.connections < 2; i++)
        world_pass(250);
    amqp_basic_consume_t m = {.queue = bytes_of("q"), .consumer_tag = bytes_of("tag")};
    peer_send_method(p, 1, AMQP_BASIC_CONSUME_METHOD, &m);
    peer_expect_nothing(p);
    assert_string_not_equal(broker.last_call, "basic.consume");
    disk.hangs = false;
    peer_expect(p, 1, AMQP_BASIC_CONSUME_OK_METHOD);
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
}

/* Beside what still waits: an identical one that comes now is kept again. */
static void test_a_declaration_that_rabbitmq_has_answered_waits_no_more(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    broker_down();
    declare(p, "q");
    peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
    peer_publish(p, 1, "q", "~waits");
    world_run();
    assert_int_equal(disk_count(false), 2);
    broker_up();
    world_pass(10000);
    assert_int_equal(disk_count(false), 1);
    broker_down();
    for (unsigned i = 0; i < 2; i++) {
        declare(p, "q");
        peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
        assert_int_equal(disk_count(false), 2);
    }
    peer_close(p);
}

/* RabbitMQ may be going away, and the pool not know it yet. */
static void test_a_connection_of_its_own_that_fails_is_tried_once_more(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    broker.is_there = false;
    amqp_basic_consume_t m = {.queue = bytes_of("q"), .consumer_tag = bytes_of("tag")};
    peer_send_method(p, 1, AMQP_BASIC_CONSUME_METHOD, &m);
    world_run();
    peer_expect_nothing(p);
    broker.is_there = true;
    world_pass(2000);
    peer_expect(p, 1, AMQP_BASIC_CONSUME_OK_METHOD);
    peer_close(p);
}

static void test_without_a_buffer_its_own_error_is_what_a_client_hears(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=0", NULL});
    struct peer *p = peer_login(), *other = peer_login();
    peer_open_channel(p, 1);
    peer_open_confirming(other, 1);
    peer_publish(other, 1, "q", "one");
    peer_expect_ack(other, 1);
    broker.silent_calls = true;
    amqp_queue_purge_t purge = {.queue = bytes_of("q")};
    peer_send_method(p, 1, AMQP_QUEUE_PURGE_METHOD, &purge);
    world_run();
    broker.silent_calls = false;
    amqp_connection_close_t close = {.reply_code = 541,
                                     .reply_text = bytes_of("INTERNAL_ERROR"),
                                     .class_id = 50,
                                     .method_id = 30};
    broker_say(0, AMQP_CONNECTION_CLOSE_METHOD, &close);
    expect_refused(p, 541);
    peer_die(other);
}

static void test_transactions_that_fill_the_buffer_do_not_wait_for_each_other(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=3", "spool.overflow=block", NULL});
    struct peer *p = peer_login(), *other = peer_login();
    peer_open_channel(p, 1);
    peer_open_channel(other, 1);
    select_tx(p);
    select_tx(other);
    broker_down();
    peer_publish(p, 1, "q", "1");
    peer_publish(p, 1, "q", "2");
    peer_publish(other, 1, "q", "1");
    world_run();
    assert_int_equal(world_queue()->reserved, 3);
    peer_publish(other, 1, "q", "2");
    expect_refused(other, 506);
    assert_int_equal(world_queue()->reserved, 2);
    commit(p);
    assert_int_equal(disk_count(false), 2);
    peer_close(p);
}

/* ---- doubt ---- */

static void set_buffer(uint64_t messages)
{
    world.config.pool.publish_buffer_size = messages;
    queue_reconfigured(world_queue());
}

static void test_without_a_buffer_nothing_overtakes_what_waits(void **state)
{
    (void)state;
    begin("pool.confirm_timeout=2s", NULL);
    struct peer *p = peer_confirming(), *other = peer_login();
    peer_open_channel(other, 1);
    select_tx(other);
    peer_publish(p, 1, "k", "~1");
    world_pass(3000);
    peer_expect_ack(p, 1);
    peer_publish(p, 1, "k", "2");
    peer_expect_ack(p, 2);
    assert_int_equal(disk_count(false), 2);
    set_buffer(0);
    peer_publish(other, 1, "another", "3");
    commit(other);
    peer_publish(other, 1, "k", "4");
    peer_publish(p, 1, "k", "5");
    world_pass(3000);
    assert_int_equal(broker.published, 2);
    peer_expect_nothing(p);
    broker_confirm_all();
    peer_expect_ack(p, 3);
    commit(other);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(disk.appended, 2);
    assert_int_equal(broker.published, 5);
    assert_string_equal(broker.bodies[1], "3");
    assert_string_equal(broker.bodies[2], "2");
    peer_close(p);
    peer_close(other);
}

/* It may hold up its drain for good. */
static void test_without_a_buffer_what_is_aside_holds_up_no_other(void **state)
{
    (void)state;
    begin("pool.confirm_timeout=2s", NULL);
    struct peer *p = peer_confirming(), *other = peer_confirming();
    broker_down();
    peer_publish(p, 1, "k", "~1");
    peer_publish(p, 1, "fine", "2");
    world_run();
    assert_int_equal(disk_count(false), 2);
    broker_up();
    world_pass(5000);
    assert_int_equal(disk_count(false), 1);
    set_buffer(0);
    peer_publish(p, 1, "fine", "3");
    peer_publish(p, 1, "another", "4");
    peer_publish(other, 1, "k", "5"); /* behind the first */
    world_run();
    assert_int_equal(broker.published, 4);
    assert_string_equal(broker.bodies[3], "4");
    broker_cut(); /* they are told; the next drain finds it out anew */
    peer_die(p);
    peer_die(other);
    world_pass(5000);
    p = peer_confirming();
    peer_publish(p, 1, "another", "6");
    peer_expect_ack(p, 1);
    peer_publish(p, 1, "k", "7");
    peer_expect_nothing(p);
    broker_confirm_all();
    peer_expect_ack(p, 2);
    assert_string_equal(broker.bodies[broker.published - 2], "6");
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(disk.appended, 2);
    peer_close(p);
}

/* Of the first one there is no copy: it was published while nothing was buffered. Those of its
 * destination stay behind it, others do not wait for it. */
static void test_what_was_not_kept_keeps_its_destination_alone(void **state)
{
    (void)state;
    begin("pool.confirm_timeout=2s", NULL);
    struct peer *p = peer_confirming(), *other = peer_confirming();
    set_buffer(0);
    peer_publish(p, 1, "k", "~1");
    world_run();
    set_buffer(1000);
    peer_publish(p, 1, "another", "~2");
    peer_publish(p, 1, "k", "~3");
    peer_publish(other, 1, "k", "~4");
    world_pass(3000);
    peer_expect_ack(p, 2);
    peer_expect_nothing(p);
    peer_expect_nothing(other);
    assert_int_equal(disk_count(false), 1);
    broker_confirm_all();
    peer_expect_ack(p, 3);
    peer_expect_ack(other, 1);
    world_run();
    assert_int_equal(broker.published, 4); /* none of them twice */
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
    peer_close(other);
}

static void test_a_transaction_in_the_proxy_ends_with_the_buffer(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    select_tx(p);
    broker_down();
    peer_publish(p, 1, "q", "1");
    world_run();
    broker_up();
    world_pass(10000);
    set_buffer(0);
    peer_publish(p, 1, "q", "2");
    expect_refused(p, 320);
    assert_int_equal(broker.published + disk.appended, 0);
}

static void test_a_return_of_what_is_in_doubt_is_kept_when_nobody_hears_it(void **state)
{
    (void)state;
    begin(NULL, NULL);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    broker.confirms = BROKER_SILENT;
    peer_publish_to(p, 1, "x", "nowhere", "lost", true);
    world_run();
    peer_die(p);
    world_pass(world.config.pool.confirm_timeout_ms + 1000);
    assert_int_equal(disk_count(false), 1);
    broker_return_all();
    broker_confirm_all();
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(disk_count(true), 1);
    assert_int_equal(world_queue()->backlog.rejected, 1);
}

/* Its publisher has a part of it, when it goes: that is not to have been told. */
static void test_a_return_that_is_cut_short_is_kept(void **state)
{
    (void)state;
    amqp_basic_return_t returned = {.reply_code = 312,
                                    .reply_text = bytes_of("NO_ROUTE"),
                                    .exchange = amqp_empty_bytes,
                                    .routing_key = bytes_of("q")};
    for (unsigned variant = 0; variant < 4; variant++) {
        bool is_doubted = variant & 1, has_header = variant & 2;
        begin("upstream.heartbeat=0", NULL);
        struct peer *p = peer_confirming();
        broker.confirms = BROKER_SILENT;
        peer_publish_to(p, 1, "", "q", "late", true);
        world_pass(is_doubted ? world.config.pool.confirm_timeout_ms + 1000 : 100);
        assert_int_equal(disk_count(false), is_doubted);
        broker_say(1, AMQP_BASIC_RETURN_METHOD, &returned);
        if (has_header)
            broker_say_header(1, "late");
        peer_die(p);
        has_header ? broker_say_body(1, "late") : broker_say_content(1, "late");
        broker_confirm_all();
        assert_int_equal(disk_count(false), 0);
        assert_int_equal(disk_count(true), 1);
        assert_int_equal(world_teardown(NULL), 0);
    }
    begin(NULL, NULL);
}

/* Two that look alike, both given back, and nobody hears of it; `is_changed`: RabbitMQ has taken a
 * property out of their headers meanwhile. */
static void test_each_return_is_of_another_message(void **state)
{
    (void)state;
    static const char *const bodies[] = {"one", "two"};
    amqp_basic_return_t returned = {.reply_code = 312,
                                    .reply_text = bytes_of("NO_ROUTE"),
                                    .exchange = amqp_empty_bytes,
                                    .routing_key = bytes_of("nowhere")};
    for (unsigned variant = 0; variant < 4; variant++) {
        bool is_doubted = variant & 1, is_changed = variant & 2;
        begin("upstream.heartbeat=0", NULL);
        struct peer *p = peer_confirming();
        broker.confirms = BROKER_SILENT;
        for (unsigned i = 0; i < 2; i++)
            peer_publish_with(p, 1, "nowhere", bodies[i], is_changed ? 1 << 12 : 0, "\x02",
                              is_changed, true);
        world_pass(is_doubted ? world.config.pool.confirm_timeout_ms + 1000 : 100);
        assert_int_equal(disk_count(false), is_doubted ? 2 : 0);
        peer_die(p);
        for (unsigned i = 0; i < 2; i++) {
            broker_say(1, AMQP_BASIC_RETURN_METHOD, &returned);
            broker_say_content(1, bodies[i]);
        }
        broker_confirm_all();
        assert_int_equal(disk_count(false), 0);
        assert_int_equal(disk_count(true), 2);
        assert_int_equal(world_queue()->backlog.rejected, 2);
        assert_int_equal(world_teardown(NULL), 0);
    }
    begin(NULL, NULL);
}

/* While the proxy does not read from RabbitMQ, because its client does not read, the silence is not
 * RabbitMQ's. */
static void test_a_confirm_that_nobody_reads_is_not_late(void **state)
{
    (void)state;
    begin("listen.heartbeat=0", "upstream.heartbeat=0");
    struct peer *p = peer_confirming();
    peer_consume(p);
    broker.confirms = BROKER_SILENT;
    peer_publish(p, 1, "q", "one");
    world_run();
    struct stream *s = world_stream(0);
    for (unsigned i = 0; !world_is_server_side(s); i++)
        s = world_stream(i);
    world_set_full(s, true);
    broker_deliver(1, "tag", 1, "more than it reads");
    world_pass(world.config.pool.confirm_timeout_ms + 2000);
    assert_int_equal(disk.appended, 0);
    world_set_full(s, false);
    world_run();
    world_pass(world.config.pool.confirm_timeout_ms + 2000);
    assert_int_equal(disk.appended, 1);
    peer_die(p);
    broker_confirm_all();
}

int main(void)
{
#define ALONE(test) cmocka_unit_test_setup_teardown(test, quiet, world_teardown)
    const struct CMUnitTest tests[] = {
        ALONE(test_slow_begins_with_a_late_confirm_and_ends_with_an_early_one),
        ALONE(test_always_keeps_its_drain_while_somebody_publishes),
        ALONE(test_a_drain_that_stays_takes_over_settings),
        ALONE(test_messages_of_tokens_are_not_stored_while_rabbitmq_is_there),
        ALONE(test_a_transaction_of_a_consumer_does_not_overtake_what_it_has_stored),
        ALONE(test_acks_of_a_stored_transaction_are_committed),
        ALONE(test_what_follows_a_stored_commit_is_answered_behind_it),
        ALONE(test_a_rollback_that_is_lost_takes_nothing_behind_it),
        ALONE(test_a_commit_that_is_lost_takes_nothing_behind_it),
        ALONE(test_ends_that_are_sent_again_take_nothing_behind_them),
        ALONE(test_a_transaction_begun_in_an_outage_hinders_no_call),
        ALONE(test_a_select_is_answered_behind_what_was_published),
        ALONE(test_a_select_waits_no_longer_than_for_a_confirm),
        ALONE(test_a_transaction_stays_where_it_began),
        ALONE(test_a_login_that_is_not_stored_has_its_bound_all_the_same),
        ALONE(test_a_nack_that_nobody_hears_and_the_disk_does_not_take),
        ALONE(test_only_what_is_transient_is_forgotten),
        ALONE(test_a_close_proves_what_was_forgotten),
        ALONE(test_nothing_is_sent_behind_a_close_that_proves),
        ALONE(test_a_consumers_channel_is_not_closed_to_prove),
        ALONE(test_an_error_of_the_proxys_own_comes_behind_answers),
        ALONE(test_what_is_asked_of_a_silent_rabbitmq_has_a_bound),
        ALONE(test_a_consume_waits_for_the_declaration_in_the_spool),
        ALONE(test_a_declaration_that_rabbitmq_has_answered_waits_no_more),
        ALONE(test_a_connection_of_its_own_that_fails_is_tried_once_more),
        ALONE(test_without_a_buffer_its_own_error_is_what_a_client_hears),
        ALONE(test_transactions_that_fill_the_buffer_do_not_wait_for_each_other),
        ALONE(test_without_a_buffer_nothing_overtakes_what_waits),
        ALONE(test_without_a_buffer_what_is_aside_holds_up_no_other),
        ALONE(test_what_was_not_kept_keeps_its_destination_alone),
        ALONE(test_a_transaction_in_the_proxy_ends_with_the_buffer),
        ALONE(test_a_return_of_what_is_in_doubt_is_kept_when_nobody_hears_it),
        ALONE(test_a_return_that_is_cut_short_is_kept),
        ALONE(test_each_return_is_of_another_message),
        ALONE(test_a_confirm_that_nobody_reads_is_not_late),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
