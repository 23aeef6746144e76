/* Sessions: the way in, what breaks the protocol, who has to go, methods in and out of an outage.
 */

#include <string.h>

#include "../world/world.h"

static void expect_refused(struct peer *p, uint16_t code)
{
    const amqp_connection_close_t *close = peer_expect(p, 0, AMQP_CONNECTION_CLOSE_METHOD);
    assert_int_equal(close->reply_code, code);
    peer_send_plain(p, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
    peer_expect_end(p);
}

static void expect_channel_refused(struct peer *p, uint16_t channel, uint16_t code)
{
    const amqp_channel_close_t *close = peer_expect(p, channel, AMQP_CHANNEL_CLOSE_METHOD);
    assert_int_equal(close->reply_code, code);
    peer_send_plain(p, channel, AMQP_CHANNEL_CLOSE_OK_METHOD);
}

/* ---- the way in ---- */

static void test_another_protocol(void **state)
{
    (void)state;
    struct peer *p = peer_connect();
    peer_send(p, "GET / HT", 8);
    peer_expect_end(p);
}

static void test_a_header_in_pieces(void **state)
{
    (void)state;
    struct peer *p = peer_connect();
    peer_send(p, "AMQP", 4);
    peer_expect_nothing(p);
    peer_send(p, "\0\0\x09\x01", 4);
    peer_expect(p, 0, AMQP_CONNECTION_START_METHOD);
    peer_die(p);
}

static void test_a_handshake_that_takes_too_long(void **state)
{
    (void)state;
    struct peer *p = peer_connect();
    world_pass(9000);
    peer_expect_nothing(p);
    world_pass(2000);
    peer_expect_end(p);
}

static void test_an_unknown_mechanism(void **state)
{
    (void)state;
    struct peer *p = peer_connect();
    peer_send(p, "AMQP\0\0\x09\x01", 8);
    peer_expect(p, 0, AMQP_CONNECTION_START_METHOD);
    amqp_connection_start_ok_t ok = {.mechanism = bytes_of("EXTERNAL"), .locale = bytes_of("en")};
    peer_send_method(p, 0, AMQP_CONNECTION_START_OK_METHOD, &ok);
    expect_refused(p, 503);
}

static void test_a_login_that_rabbitmq_refuses(void **state)
{
    (void)state;
    uint16_t code = 0;
    broker.refuse_code = 403;
    strcpy(broker.refuse_text, "ACCESS_REFUSED - Login was refused");
    assert_null(peer_login_as("guest", "wrong", "/", &code));
    assert_int_equal(code, 403);
    assert_true(list_empty(&world.pools.all));
    assert_true(list_empty(&world.pools.queues.all));
    assert_int_equal(world.rt.counters.login_refused, 1);
}

static void test_a_vhost_that_is_not_there(void **state)
{
    (void)state;
    uint16_t code = 0;
    broker.refuse_code = 530;
    strcpy(broker.refuse_text, "NOT_ALLOWED - vhost nowhere not found");
    assert_null(peer_login_as("guest", "guest", "nowhere", &code));
    assert_int_equal(code, 530);
    assert_true(list_empty(&world.pools.all));
}

static void test_an_unknown_login_in_an_outage(void **state)
{
    (void)state;
    uint16_t code = 0;
    broker_down();
    assert_null(peer_login_as("guest", "guest", "/", &code));
    assert_int_equal(code, 403);
}

static void test_a_known_login_in_an_outage(void **state)
{
    (void)state;
    peer_close(peer_login());
    broker_down();
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    peer_publish(p, 1, "q", "one");
    peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    peer_close(p);
    uint16_t code = 0;
    assert_null(peer_login_as("guest", "another", "/", &code));
    assert_int_equal(code, 403);
}

static void test_clients_share_a_connection(void **state)
{
    (void)state;
    struct peer *peers[5];
    for (unsigned i = 0; i < 5; i++)
        peers[i] = peer_login();
    assert_int_equal(broker.connections, 1);
    assert_int_equal(world.rt.counters.clients, 5);
    for (unsigned i = 0; i < 5; i++)
        peer_close(peers[i]);
    world_pass(600000); /* pool.idle_timeout */
}

/* ---- what breaks the protocol ---- */

static void test_frames_that_are_none(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
    } all[] = {{"\x07\0\1\0\0\0\0\xCE", 8},
               {"\1\0\1\0\0\0\4\0\x14\0\x0A\0", 12},
               {"\1\0\1\x7F\xFF\xFF\xFF", 7}};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        struct peer *p = peer_login();
        peer_send(p, all[i].bytes, all[i].len);
        expect_refused(p, 501);
    }
}

static void test_methods_in_the_wrong_place(void **state)
{
    (void)state;
    static const struct {
        amqp_method_number_t method;
        uint16_t channel, code;
        bool opened;
    } all[] = {
        {AMQP_QUEUE_PURGE_METHOD, 1, 504, false},    {AMQP_CHANNEL_OPEN_METHOD, 1, 504, true},
        {AMQP_CHANNEL_OPEN_METHOD, 0, 504, false},   {AMQP_CHANNEL_CLOSE_OK_METHOD, 1, 503, true},
        {AMQP_BASIC_CANCEL_OK_METHOD, 1, 503, true},
    };
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        struct peer *p = peer_login();
        if (all[i].opened)
            peer_open_channel(p, all[i].channel);
        peer_send_plain(p, all[i].channel, all[i].method);
        expect_refused(p, all[i].code);
    }
}

static void test_content_without_its_method(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    peer_send(p, "\2\0\1\0\0\0\x0E\0\x3C\0\0\0\0\0\0\0\0\0\1\0\0\xCE", 22);
    expect_refused(p, 505);
}

static void test_an_immediate_publish(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    amqp_basic_publish_t publish = {.routing_key = bytes_of("q"), .immediate = 1};
    peer_send_method(p, 1, AMQP_BASIC_PUBLISH_METHOD, &publish);
    expect_refused(p, 540);
}

static void test_a_heartbeat_of_the_wrong_kind(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_send(p, "\x08\0\0\0\0\0\0\xCE", 8);
    peer_expect_nothing(p);
    peer_send(p, "\x08\0\1\0\0\0\0\xCE", 8);
    expect_refused(p, 505);
}

static void test_who_is_refused_and_never_answers(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_send_plain(p, 0, AMQP_CHANNEL_OPEN_METHOD);
    peer_expect(p, 0, AMQP_CONNECTION_CLOSE_METHOD);
    world_pass(6000);
    peer_expect_end(p);
}

static void test_closes_that_cross(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    peer_publish_to(p, 1, "x", "q", "!bad", false);
    amqp_channel_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
    peer_send_method(p, 1, AMQP_CHANNEL_CLOSE_METHOD, &close);
    peer_expect(p, 1, AMQP_CHANNEL_CLOSE_METHOD);
    peer_expect(p, 1, AMQP_CHANNEL_CLOSE_OK_METHOD);
    peer_send_plain(p, 1, AMQP_CHANNEL_CLOSE_OK_METHOD);
    peer_open_channel(p, 1); /* the number is free */
    peer_close(p);
}

/* ---- methods ---- */

static void declare(struct peer *p, const char *name, bool exclusive)
{
    amqp_queue_declare_t m = {.queue = bytes_of(name), .durable = 1, .exclusive = exclusive};
    peer_send_method(p, 1, AMQP_QUEUE_DECLARE_METHOD, &m);
}

static void test_a_declaration_is_rabbitmqs_to_answer(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    declare(p, "q", false);
    const amqp_queue_declare_ok_t *ok = peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
    assert_memory_equal(ok->queue.bytes, "q", 1);
    assert_string_equal(broker.last_call, "queue.declare");
    assert_int_equal(broker.connections, 1);
    declare(p, "mine", true); /* belongs to a connection */
    peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
    assert_int_equal(broker.connections, 2);
    peer_close(p);
}

static void test_declarations_wait_in_the_spool(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker_down();
    declare(p, "q", false);
    peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
    declare(p, "q", false); /* the same takes no place */
    peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
    amqp_queue_bind_t bind = {.queue = bytes_of("q"), .exchange = bytes_of("amq.fanout")};
    peer_send_method(p, 1, AMQP_QUEUE_BIND_METHOD, &bind);
    peer_expect(p, 1, AMQP_QUEUE_BIND_OK_METHOD);
    amqp_exchange_declare_t exchange = {.exchange = bytes_of("x"), .type = bytes_of("fanout")};
    peer_send_method(p, 1, AMQP_EXCHANGE_DECLARE_METHOD, &exchange);
    peer_expect(p, 1, AMQP_EXCHANGE_DECLARE_OK_METHOD);
    peer_publish(p, 1, "q", "one");
    peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    assert_int_equal(disk_count(false), 4);
    broker_up();
    world_pass(30000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(broker.published, 1);
    peer_close(p);
}

static void test_a_passive_declaration_in_an_outage(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    declare(p, "known", false);
    peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
    broker_down();
    amqp_queue_declare_t m = {.queue = bytes_of("known"), .passive = 1};
    peer_send_method(p, 1, AMQP_QUEUE_DECLARE_METHOD, &m);
    peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
    m.queue = bytes_of("unknown");
    peer_send_method(p, 1, AMQP_QUEUE_DECLARE_METHOD, &m);
    expect_channel_refused(p, 1, 404);
    peer_close(p);
}

static void test_what_only_rabbitmq_can_answer(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    broker_down();
    world_pass(60000); /* it was tried, and is away for longer */
    amqp_queue_delete_t m = {.queue = bytes_of("q")};
    peer_send_method(p, 1, AMQP_QUEUE_DELETE_METHOD, &m);
    world_pass(6000);
    expect_channel_refused(p, 1, 406);
    peer_close(p);
}

static void test_an_empty_queue_name_is_the_last_declared(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    amqp_queue_purge_t m = {.queue = amqp_empty_bytes};
    peer_send_method(p, 1, AMQP_QUEUE_PURGE_METHOD, &m);
    expect_channel_refused(p, 1, 404);
    peer_open_channel(p, 1);
    declare(p, "q", false);
    peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
    peer_send_method(p, 1, AMQP_QUEUE_PURGE_METHOD, &m);
    peer_expect(p, 1, AMQP_QUEUE_PURGE_OK_METHOD);
    peer_close(p);
}

static void test_a_consumer_has_an_upstream_of_its_own(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    amqp_basic_qos_t qos = {.prefetch_count = 10};
    peer_send_method(p, 1, AMQP_BASIC_QOS_METHOD, &qos);
    peer_expect(p, 1, AMQP_BASIC_QOS_OK_METHOD);
    amqp_basic_consume_t consume = {.queue = bytes_of("q"), .consumer_tag = bytes_of("tag")};
    peer_send_method(p, 1, AMQP_BASIC_CONSUME_METHOD, &consume);
    peer_expect(p, 1, AMQP_BASIC_CONSUME_OK_METHOD);
    assert_int_equal(broker.connections, 2);
    broker_deliver(1, "tag", 1, "work");
    peer_expect(p, 1, AMQP_BASIC_DELIVER_METHOD);
    struct frame frame;
    assert_int_equal(peer_read(p, &frame), FRAME_HEADER);
    assert_int_equal(peer_read(p, &frame), FRAME_BODY);
    assert_memory_equal(frame.payload, "work", 4);
    amqp_basic_ack_t ack = {.delivery_tag = 1};
    peer_send_method(p, 1, AMQP_BASIC_ACK_METHOD, &ack);
    peer_close(p);
    world_pass(1000);
}

static void test_a_consumer_hears_of_an_outage(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    amqp_basic_consume_t consume = {.queue = bytes_of("q"), .consumer_tag = bytes_of("tag")};
    peer_send_method(p, 1, AMQP_BASIC_CONSUME_METHOD, &consume);
    peer_expect(p, 1, AMQP_BASIC_CONSUME_OK_METHOD);
    broker_down();
    expect_refused(p, 320);
}

static struct peer *refused_inside_of_a_delivery(void)
{
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    amqp_basic_consume_t consume = {.queue = bytes_of("q"), .consumer_tag = bytes_of("tag")};
    peer_send_method(p, 1, AMQP_BASIC_CONSUME_METHOD, &consume);
    peer_expect(p, 1, AMQP_BASIC_CONSUME_OK_METHOD);
    broker_deliver(1, "tag", 1, NULL);
    peer_expect(p, 1, AMQP_BASIC_DELIVER_METHOD);
    amqp_queue_purge_t purge = {.queue = amqp_empty_bytes};
    peer_send_method(p, 1, AMQP_QUEUE_PURGE_METHOD, &purge);
    amqp_connection_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
    peer_send_method(p, 0, AMQP_CONNECTION_CLOSE_METHOD, &close);
    peer_expect_nothing(p);
    return p;
}

/* A close-ok in its place would say that all is well. */
static void test_a_refusal_inside_of_a_delivery_is_told_before_the_close(void **state)
{
    (void)state;
    struct peer *p = refused_inside_of_a_delivery();
    broker_deliver_rest(1, "work");
    struct frame frame;
    assert_int_equal(peer_read(p, &frame), FRAME_HEADER);
    assert_int_equal(peer_read(p, &frame), FRAME_BODY);
    const amqp_channel_close_t *refused = peer_expect(p, 1, AMQP_CHANNEL_CLOSE_METHOD);
    assert_int_equal(refused->reply_code, 404);
    peer_expect(p, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
    peer_die(p);
}

static void test_a_refusal_inside_of_a_delivery_that_never_ends(void **state)
{
    (void)state;
    struct peer *p = refused_inside_of_a_delivery();
    broker_cut();
    const amqp_connection_close_t *refused = peer_expect(p, 0, AMQP_CONNECTION_CLOSE_METHOD);
    assert_int_equal(refused->reply_code, 320);
    peer_expect(p, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
    peer_die(p);
}

/* ---- transactions ---- */

static void select_tx(struct peer *p)
{
    peer_open_channel(p, 1);
    peer_send_plain(p, 1, AMQP_TX_SELECT_METHOD);
    peer_expect(p, 1, AMQP_TX_SELECT_OK_METHOD);
}

static void test_a_transaction_is_rabbitmqs(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    select_tx(p);
    peer_publish(p, 1, "q", "one");
    peer_publish(p, 1, "q", "two");
    assert_int_equal(world_queue()->reserved, 2);
    peer_send_plain(p, 1, AMQP_TX_COMMIT_METHOD);
    peer_expect(p, 1, AMQP_TX_COMMIT_OK_METHOD);
    assert_int_equal(world_queue()->reserved, 0);
    assert_int_equal(disk.appended, 0);
    peer_publish(p, 1, "q", "three");
    peer_send_plain(p, 1, AMQP_TX_ROLLBACK_METHOD);
    peer_expect(p, 1, AMQP_TX_ROLLBACK_OK_METHOD);
    assert_int_equal(world_queue()->reserved, 0);
    peer_close(p);
}

static void test_a_transaction_in_an_outage_is_all_or_nothing(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    select_tx(p);
    broker_down();
    peer_publish(p, 1, "q", "one");
    peer_publish(p, 1, "q", "two");
    world_run();
    assert_int_equal(disk.appended, 0);
    peer_send_plain(p, 1, AMQP_TX_COMMIT_METHOD);
    peer_expect(p, 1, AMQP_TX_COMMIT_OK_METHOD);
    assert_int_equal(disk_count(false), 2);
    peer_publish(p, 1, "q", "three");
    peer_send_plain(p, 1, AMQP_TX_ROLLBACK_METHOD);
    peer_expect(p, 1, AMQP_TX_ROLLBACK_OK_METHOD);
    assert_int_equal(disk_count(false), 2);
    peer_close(p);
}

static void test_a_transaction_survives_the_loss_of_rabbitmq(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    select_tx(p);
    peer_publish(p, 1, "q", "one");
    world_run();
    assert_int_equal(broker.published, 1);
    broker_down();
    peer_publish(p, 1, "q", "two");
    peer_send_plain(p, 1, AMQP_TX_COMMIT_METHOD);
    peer_expect(p, 1, AMQP_TX_COMMIT_OK_METHOD);
    assert_string_equal(disk_body(0), "one");
    assert_string_equal(disk_body(1), "two");
    peer_close(p);
}

/* The spool takes what was published, and RabbitMQ is told to commit the acks all the same: it may
 * read that when the alarm is over. */
static void test_acks_are_committed_in_an_alarm(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    select_tx(p);
    amqp_basic_consume_t consume = {.queue = bytes_of("q"), .consumer_tag = bytes_of("tag")};
    peer_send_method(p, 1, AMQP_BASIC_CONSUME_METHOD, &consume);
    peer_expect(p, 1, AMQP_BASIC_CONSUME_OK_METHOD);
    amqp_connection_blocked_t blocked = {.reason = bytes_of("scripted")};
    broker_say(0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
    peer_publish(p, 1, "q", "one");
    amqp_basic_ack_t ack = {.delivery_tag = 1};
    peer_send_method(p, 1, AMQP_BASIC_ACK_METHOD, &ack);
    world_run();
    assert_string_equal(broker.last_call, "basic.ack");
    peer_send_plain(p, 1, AMQP_TX_COMMIT_METHOD);
    peer_expect(p, 1, AMQP_TX_COMMIT_OK_METHOD);
    assert_int_equal(disk.appended, 1);
    assert_string_equal(broker.last_call, "tx.commit");
    peer_expect_nothing(p); /* RabbitMQ's own commit-ok is not passed on */
    peer_close(p);
    broker_say(0, AMQP_CONNECTION_UNBLOCKED_METHOD, &(amqp_connection_unblocked_t){0});
    world_pass(1000);
}

static void test_a_commit_that_was_under_way_is_answered_by_the_spool(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    select_tx(p);
    peer_publish(p, 1, "q", "one");
    world_run();
    broker.silent_calls = true;
    peer_send_plain(p, 1, AMQP_TX_COMMIT_METHOD);
    peer_expect_nothing(p);
    broker_down();
    peer_expect(p, 1, AMQP_TX_COMMIT_OK_METHOD);
    assert_string_equal(disk_body(0), "one");
    peer_close(p);
}

/* Its own of before may wait there, behind those that RabbitMQ does not confirm. */
static void test_a_transaction_beside_what_is_in_doubt_is_stored(void **state)
{
    (void)state;
    struct peer *p = peer_login(), *other = peer_login();
    broker.confirms = BROKER_SILENT;
    peer_open_channel(other, 1);
    peer_publish(other, 1, "q", "in doubt");
    world_run();
    world_pass(world.config.pool.confirm_timeout_ms + 1000);
    assert_int_equal(disk.appended, 1);
    unsigned published = broker.published;
    broker.confirms = BROKER_ACKS;
    select_tx(p);
    peer_publish(p, 1, "another", "one");
    peer_publish(p, 1, "q", "two");
    peer_send_plain(p, 1, AMQP_TX_COMMIT_METHOD);
    peer_expect(p, 1, AMQP_TX_COMMIT_OK_METHOD);
    assert_int_equal(disk.appended, 3);
    world_pass(1000);
    assert_int_equal(broker.published, published + 1);
    assert_string_equal(broker.bodies[published], "one");
    broker_confirm_all();
    world_pass(1000);
    assert_int_equal(broker.published, published + 2);
    peer_close(p);
    peer_close(other);
}

/* What was published is stored; RabbitMQ is lost before it has committed acks, of which there were
 * none. */
static void test_half_a_commit_is_lost(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=1000", "spool.mode=always", NULL});
    struct peer *p = peer_login();
    select_tx(p);
    amqp_basic_consume_t consume = {.queue = bytes_of("q"), .consumer_tag = bytes_of("tag")};
    peer_send_method(p, 1, AMQP_BASIC_CONSUME_METHOD, &consume);
    peer_expect(p, 1, AMQP_BASIC_CONSUME_OK_METHOD);
    amqp_basic_cancel_t cancel = {.consumer_tag = bytes_of("tag")};
    broker_say(1, AMQP_BASIC_CANCEL_METHOD, &cancel);
    peer_expect(p, 1, AMQP_BASIC_CANCEL_METHOD);
    broker.confirms = BROKER_SILENT;
    struct peer *other = peer_login();
    peer_open_channel(other, 1);
    peer_publish(other, 1, "q", "waits");
    world_run();
    peer_publish(p, 1, "q", "behind it");
    broker.silent_calls = true;
    peer_send_plain(p, 1, AMQP_TX_COMMIT_METHOD);
    peer_expect_nothing(p);
    assert_int_equal(disk.appended, 2);
    broker_down();
    peer_expect(p, 1, AMQP_TX_COMMIT_OK_METHOD);
    peer_close(p);
    peer_close(other);
}

static void test_confirms_and_transactions_exclude_each_other(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    peer_send_plain(p, 1, AMQP_TX_SELECT_METHOD);
    expect_channel_refused(p, 1, 406);
    select_tx(p);
    peer_send_plain(p, 1, AMQP_CONFIRM_SELECT_METHOD);
    expect_channel_refused(p, 1, 406);
    peer_close(p);
}

/* ---- who has to go ---- */

static void test_a_call_that_ends_the_shared_connection(void **state)
{
    (void)state;
    struct peer *p = peer_login(), *other = peer_login();
    peer_open_channel(p, 1);
    peer_open_confirming(other, 1);
    broker.silent_calls = true;
    amqp_queue_purge_t purge = {.queue = bytes_of("q")};
    peer_send_method(p, 1, AMQP_QUEUE_PURGE_METHOD, &purge);
    world_run();
    amqp_connection_close_t close = {.reply_code = 541,
                                     .reply_text = bytes_of("INTERNAL_ERROR"),
                                     .class_id = 50,
                                     .method_id = 30};
    broker.silent_calls = false;
    broker_say(0, AMQP_CONNECTION_CLOSE_METHOD, &close);
    expect_refused(p, 541);
    world_pass(5000);
    peer_publish(other, 1, "q", "one");
    peer_expect(other, 1, AMQP_BASIC_ACK_METHOD);
    peer_close(other);
}

static void test_an_unanswered_call_is_answered_from_the_spool(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    broker.silent_calls = true;
    declare(p, "q", false);
    peer_expect_nothing(p);
    broker_down();
    broker.silent_calls = false;
    peer_expect(p, 1, AMQP_QUEUE_DECLARE_OK_METHOD);
    assert_int_equal(disk_count(false), 1);
    peer_close(p);
}

static void test_a_call_without_a_place_in_the_spool_is_sent_again(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    broker.silent_calls = true;
    amqp_queue_purge_t purge = {.queue = bytes_of("q")};
    peer_send_method(p, 1, AMQP_QUEUE_PURGE_METHOD, &purge);
    world_run();
    broker_cut();
    broker.silent_calls = false;
    world_pass(10000);
    peer_expect(p, 1, AMQP_QUEUE_PURGE_OK_METHOD);
    peer_close(p);
}

int main(void)
{
#define IN_WORLD(test) cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)
    const struct CMUnitTest tests[] = {
        IN_WORLD(test_another_protocol),
        IN_WORLD(test_a_header_in_pieces),
        IN_WORLD(test_a_handshake_that_takes_too_long),
        IN_WORLD(test_an_unknown_mechanism),
        IN_WORLD(test_a_login_that_rabbitmq_refuses),
        IN_WORLD(test_a_vhost_that_is_not_there),
        IN_WORLD(test_an_unknown_login_in_an_outage),
        IN_WORLD(test_a_known_login_in_an_outage),
        IN_WORLD(test_clients_share_a_connection),
        IN_WORLD(test_frames_that_are_none),
        IN_WORLD(test_methods_in_the_wrong_place),
        IN_WORLD(test_content_without_its_method),
        IN_WORLD(test_an_immediate_publish),
        IN_WORLD(test_a_heartbeat_of_the_wrong_kind),
        IN_WORLD(test_who_is_refused_and_never_answers),
        IN_WORLD(test_closes_that_cross),
        IN_WORLD(test_a_declaration_is_rabbitmqs_to_answer),
        IN_WORLD(test_declarations_wait_in_the_spool),
        IN_WORLD(test_a_passive_declaration_in_an_outage),
        IN_WORLD(test_what_only_rabbitmq_can_answer),
        IN_WORLD(test_an_empty_queue_name_is_the_last_declared),
        IN_WORLD(test_a_consumer_has_an_upstream_of_its_own),
        IN_WORLD(test_a_consumer_hears_of_an_outage),
        IN_WORLD(test_a_refusal_inside_of_a_delivery_is_told_before_the_close),
        IN_WORLD(test_a_refusal_inside_of_a_delivery_that_never_ends),
        IN_WORLD(test_a_transaction_is_rabbitmqs),
        IN_WORLD(test_a_transaction_in_an_outage_is_all_or_nothing),
        IN_WORLD(test_a_transaction_survives_the_loss_of_rabbitmq),
        IN_WORLD(test_acks_are_committed_in_an_alarm),
        IN_WORLD(test_a_commit_that_was_under_way_is_answered_by_the_spool),
        cmocka_unit_test_teardown(test_half_a_commit_is_lost, world_teardown),
        IN_WORLD(test_a_transaction_beside_what_is_in_doubt_is_stored),
        IN_WORLD(test_confirms_and_transactions_exclude_each_other),
        IN_WORLD(test_a_call_that_ends_the_shared_connection),
        IN_WORLD(test_an_unanswered_call_is_answered_from_the_spool),
        IN_WORLD(test_a_call_without_a_place_in_the_spool_is_sent_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
