/* Limits, logins and what a person does: full buffers, passwords, pauses, rejected messages,
 * silence, alarms. Each test has settings of its own. */

#include <string.h>

#include "../world/world.h"
#include "base/log.h"
#include "drain/drain.h"
#include "peer/budget.h"
#include "pool/held.h"
#include "pool/rejected.h"

static int quiet(void **state)
{
    (void)state;
    log_init(LOG_ERROR, LOG_LOGFMT);
    return 0;
}

static struct peer *begin(const char *a, const char *b)
{
    const char *sets[] = {"pool.publish_buffer_size=3", a, a ? b : NULL, NULL};
    world_begin(sets);
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    return p;
}

static void publish_until_full(struct peer *p)
{
    broker_down();
    for (unsigned i = 0; i < 3; i++) {
        peer_publish(p, 1, "q", "stored");
        peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    }
    assert_int_equal(disk_count(false), 3);
    peer_publish(p, 1, "q", "one too many");
}

static void expect_refused(struct peer *p, uint16_t code)
{
    const amqp_connection_close_t *close = peer_expect(p, 0, AMQP_CONNECTION_CLOSE_METHOD);
    assert_int_equal(close->reply_code, code);
    peer_send_plain(p, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
    peer_expect_end(p);
}

/* ---- a full buffer ---- */

static void test_overflow_rejects(void **state)
{
    (void)state;
    struct peer *p = begin("spool.overflow=reject", NULL);
    publish_until_full(p);
    const amqp_basic_nack_t *nack = peer_expect(p, 1, AMQP_BASIC_NACK_METHOD);
    assert_int_equal(nack->delivery_tag, 4);
    assert_int_equal(world.rt.counters.queue_full, 1);
    broker_up();
    world_pass(30000);
    peer_publish(p, 1, "q", "fits");
    peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    peer_close(p);
}

static void test_overflow_disconnects(void **state)
{
    (void)state;
    struct peer *p = begin("spool.overflow=disconnect", NULL);
    publish_until_full(p);
    expect_refused(p, 506);
    assert_int_equal(disk_count(false), 3);
}

static void test_overflow_blocks(void **state)
{
    (void)state;
    struct peer *p = begin("spool.overflow=block", NULL);
    publish_until_full(p);
    peer_expect_nothing(p);
    broker_up();
    world_pass(30000);
    const amqp_basic_ack_t *ack = peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    assert_int_equal(ack->delivery_tag, 4);
    assert_int_equal(broker.published, 4);
    peer_close(p);
}

static void test_a_disk_without_room(void **state)
{
    (void)state;
    struct peer *p = begin("spool.overflow=reject", NULL);
    broker_down();
    disk.has_room = false;
    peer_publish(p, 1, "q", "one");
    peer_expect(p, 1, AMQP_BASIC_NACK_METHOD);
    disk.has_room = true;
    peer_publish(p, 1, "q", "two");
    peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    peer_close(p);
}

static void test_memory_that_is_short_holds_publishers(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    world.rt.budget.kept += 2 * world.config.listen.max_memory_bytes;
    peer_publish(p, 1, "q", "one");
    peer_expect_nothing(p);
    assert_int_equal(broker.published, 0);
    world.rt.budget.kept -= 2 * world.config.listen.max_memory_bytes;
    assert_true(budget_recovers(&world.rt));
    assert_false(budget_recovers(&world.rt));
    held_wake(LIST_ENTRY(world.pools.all.next, struct pool, node));
    peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    peer_close(p);
}

static void test_without_a_buffer(void **state)
{
    (void)state;
    const char *sets[] = {"pool.publish_buffer_size=0", NULL};
    world_begin(sets);
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    peer_publish(p, 1, "q", "one");
    peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    broker.confirms = BROKER_SILENT;
    peer_publish(p, 1, "q", "two");
    world_run();
    broker_down();
    expect_refused(p, 320); /* of whom nothing was kept */
    assert_int_equal(disk.appended, 0);
    uint16_t code = 0;
    assert_null(peer_login_as("guest", "guest", "/", &code));
    assert_int_equal(code, 320);
}

static void test_what_a_client_that_does_not_read_may_say(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    struct stream *s = world_stream(0);
    for (unsigned i = 0; !world_is_server_side(s); i++)
        s = world_stream(i);
    world_set_full(s, true);
    peer_publish(p, 1, "q", "one");
    world_run();
    assert_int_equal(broker.published, 1); /* many read only when they have published */
    peer_publish_to(p, 1, "", "q", "returned, perhaps", true);
    peer_publish(p, 1, "q", "behind it");
    world_run();
    assert_int_equal(broker.published, 1); /* it could make the client be told more */
    world_set_full(s, false);
    for (unsigned i = 0; i < 3; i++)
        peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    assert_int_equal(broker.published, 3);
    peer_close(p);
}

/* ---- logins ---- */

static void update_secret(struct peer *p, const char *secret)
{
    amqp_connection_update_secret_t m = {.new_secret = bytes_of(secret),
                                         .reason = bytes_of("renewed")};
    peer_send_method(p, 0, AMQP_CONNECTION_UPDATE_SECRET_METHOD, &m);
}

static void test_a_new_secret_is_rabbitmqs_to_judge(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    unsigned connections = broker.connections;
    update_secret(p, "another");
    peer_expect(p, 0, AMQP_CONNECTION_UPDATE_SECRET_OK_METHOD);
    assert_int_equal(broker.connections, connections + 1);
    const struct pool *pool = LIST_ENTRY(world.pools.all.next, struct pool, node);
    assert_string_equal(pool->secrets.current, "another");
    assert_string_equal(world_queue()->password, "another");
    update_secret(p, "another"); /* known: nobody is asked */
    peer_expect(p, 0, AMQP_CONNECTION_UPDATE_SECRET_OK_METHOD);
    assert_int_equal(broker.connections, connections + 1);
    broker.refuse_code = 403;
    strcpy(broker.refuse_text, "ACCESS_REFUSED");
    update_secret(p, "wrong"); /* a password user's backend says yes to all */
    peer_expect(p, 0, AMQP_CONNECTION_UPDATE_SECRET_OK_METHOD);
    assert_string_equal(pool->secrets.current, "another");
    broker.refuse_code = 0;
    peer_close(p);
}

static void test_a_limit_of_connections(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    broker.refuse_code = 530;
    strcpy(broker.refuse_text, "NOT_ALLOWED - connection limit (1) is reached");
    broker_cut();
    peer_publish(p, 1, "q", "one");
    peer_expect(p, 1, AMQP_BASIC_ACK_METHOD); /* in the spool: the login is good */
    uint16_t code = 0;
    assert_null(peer_login_as("stranger", "x", "/", &code));
    assert_int_equal(code, 530);
    broker.refuse_code = 0;
    world_pass(60000);
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
}

static void test_a_user_that_was_deleted(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    broker.refuse_code = 403;
    strcpy(broker.refuse_text, "ACCESS_REFUSED - Login was refused");
    broker_cut();
    world_pass(4000);
    peer_expect_nothing(p); /* RabbitMQ may just have started, and not know its users yet */
    world_pass(4000);
    expect_refused(p, 403);
    const struct pool *pool = LIST_ENTRY(world.pools.all.next, struct pool, node);
    assert_int_equal(pool->login, LOGIN_REFUSED);
}

/* RabbitMQ starts, does not know its users yet, and goes away again. */
static void test_a_refusal_before_an_outage(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    const struct pool *pool = LIST_ENTRY(world.pools.all.next, struct pool, node);
    broker.refuse_code = 403;
    strcpy(broker.refuse_text, "ACCESS_REFUSED - Login was refused");
    broker_cut();
    world_pass(1000);
    assert_int_equal(pool->login, LOGIN_SUSPECTED);
    broker.refuse_code = 0;
    broker_down();
    peer_close(peer_login()); /* nor is anybody locked out at its beginning */
    world_pass(20000);
    assert_int_equal(pool->login, LOGIN_PROVEN);
    peer_expect_nothing(p);
    peer_close(p);
    p = peer_login();
    peer_open_confirming(p, 1);
    peer_close(p);
}

static void test_unverified_logins_may_be_let_in(void **state)
{
    (void)state;
    const char *sets[] = {"pool.publish_buffer_size=3", "spool.unverified_logins=accept", NULL};
    world_begin(sets);
    broker_down();
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    peer_publish(p, 1, "q", "one");
    peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    broker_up();
    world_pass(30000);
    assert_int_equal(broker.published, 1);
    peer_close(p);
}

static void test_a_login_that_nobody_uses_is_forgotten(void **state)
{
    (void)state;
    peer_close(begin("spool.forget_after=60s", NULL));
    const struct queue *queue = world_queue();
    assert_true(queue->backlog.id > 0);
    world_pass(70000);
    struct pool *pool = LIST_ENTRY(world.pools.all.next, struct pool, node);
    pool_cleanup(pool, world.now_ms);
    queue_cleanup(world_queue(), world.now_ms);
    world_run();
    assert_true(list_empty(&world.pools.queues.all) || world_queue()->backlog.id == 0);
}

/* ---- what a person does ---- */

static void test_a_drain_can_be_paused(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    broker_down();
    peer_publish(p, 1, "q", "one");
    peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    queue_pause(world_queue(), true);
    queue_pause(world_queue(), true);
    broker_up();
    world_pass(30000);
    assert_int_equal(disk_count(false), 1);
    queue_pause(world_queue(), false);
    world_pass(2000);
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
}

static struct rejected_result last;

static void on_done(uint64_t owner, const struct rejected_result *result)
{
    assert_int_equal(owner, 77);
    last = *result;
}

static void test_rejected_messages_are_tried_again_or_dropped(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    broker.close_code = 406;
    broker_down();
    for (unsigned i = 0; i < 2; i++) {
        peer_publish_to(p, 1, "x", "q", "!bad", false);
        peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    }
    broker_up();
    world_pass(30000);
    assert_int_equal(disk_count(true), 2);
    assert_int_equal(world_queue()->backlog.rejected, 2);
    rejected_retry(world_queue(), 0, on_done, 77);
    world_pass(30000); /* refused again */
    assert_int_equal(last.moved, 2);
    assert_int_equal(last.status, STATUS_OK);
    assert_int_equal(disk_count(true), 2);
    assert_int_equal(world_queue()->backlog.rejected, 2);
    rejected_discard(world_queue(), 0, on_done, 77);
    world_run();
    assert_int_equal(last.moved, 2);
    assert_int_equal(disk_count(true), 0);
    assert_int_equal(world_queue()->backlog.rejected, 0);
    rejected_discard(world_queue(), 99, on_done, 77);
    world_run();
    assert_int_equal(last.moved, 0);
    assert_int_equal(last.status, STATUS_NOT_FOUND);
    peer_close(p);
}

static void test_a_damaged_one_is_passed_over(void **state)
{
    (void)state;
    struct peer *p = begin("pool.publish_buffer_size=100", NULL);
    broker.close_code = 406;
    broker_down();
    for (unsigned i = 0; i < 3; i++) {
        peer_publish_to(p, 1, "x", "q", "!bad", false);
        peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    }
    broker_up();
    world_pass(30000);
    assert_int_equal(disk_count(true), 3);
    disk.damaged = 2;
    rejected_discard(world_queue(), 2, on_done, 77);
    world_run();
    assert_int_equal(last.status, STATUS_INVALID);
    assert_int_equal(last.moved, 0);
    rejected_discard(world_queue(), 0, on_done, 77);
    world_run();
    assert_int_equal(last.status, STATUS_OK);
    assert_int_equal(last.moved, 2);
    assert_int_equal(disk_count(true), 1);
    assert_int_equal(world_queue()->backlog.rejected, 1);
    peer_close(p);
}

static void test_a_rate_holds_the_drain_back(void **state)
{
    (void)state;
    struct peer *p = begin("drain.rate=1", NULL);
    broker_down();
    for (unsigned i = 0; i < 3; i++) {
        peer_publish(p, 1, "q", "one");
        peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    }
    broker_up();
    for (unsigned i = 0; i < 200 && broker.published == 0; i++)
        world_pass(250);
    assert_true(broker.published < 3);
    world.config.drain.rate = 0;
    queue_reconfigured(world_queue());
    world_pass(1000);
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
}

static void test_a_rate_is_kept_over_the_ticks(void **state)
{
    (void)state;
    struct peer *p = begin("drain.rate=5", "pool.publish_buffer_size=100");
    broker_down();
    for (unsigned i = 0; i < 60; i++) {
        peer_publish(p, 1, "q", "one");
        peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    }
    broker_up();
    for (unsigned i = 0; i < 200 && broker.published == 0; i++)
        world_pass(250);
    unsigned before = broker.published;
    world_pass(8000);
    assert_int_equal(broker.published - before, 40);
    peer_close(p);
}

/* ---- unroutable, nacked ---- */

static void test_what_is_unroutable_after_the_wait_is_dropped_or_rejected(void **state)
{
    (void)state;
    static const char *const settings[] = {"drain.unroutable=drop", "drain.unroutable=reject"};
    for (unsigned i = 0; i < 2; i++) {
        struct peer *p = begin(settings[i], "drain.unroutable_wait=5s");
        broker_down();
        peer_publish_to(p, 1, "x", "nowhere", "one", false);
        peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
        broker.returns = true;
        broker_up();
        world_pass(60000);
        assert_int_equal(disk_count(false), 0);
        assert_int_equal(disk_count(true), i);
        assert_int_equal(world.rt.counters.unroutable, 1 - i);
        peer_close(p);
        if (i == 0)
            assert_int_equal(world_teardown(NULL), 0);
    }
}

/* Each return is of one of them. */
static void test_two_equal_ones_that_are_unroutable(void **state)
{
    (void)state;
    struct peer *p = begin("drain.unroutable=reject", "drain.unroutable_wait=0");
    broker_down();
    for (unsigned i = 0; i < 2; i++) {
        peer_publish_to(p, 1, "x", "nowhere", "one", false);
        peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    }
    broker.returns = true;
    broker.confirms = BROKER_SILENT;
    broker_up();
    world_pass(10000);
    broker_confirm_all();
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(disk_count(true), 2);
    peer_close(p);
}

static void test_what_is_nacked_again_and_again_is_rejected(void **state)
{
    (void)state;
    struct peer *p = begin("drain.nack_limit=3", NULL);
    broker_down();
    peer_publish(p, 1, "q", "one");
    peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    broker.confirms = BROKER_NACKS;
    broker_up();
    world_pass(120000);
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(disk_count(true), 1);
    assert_int_equal(broker.published, 3);
    peer_close(p);
}

/* ---- silence, alarms ---- */

static void test_a_client_that_is_silent_is_closed(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    struct client *c = LIST_ENTRY(world.clients.all.prev, struct client, node);
    c->heartbeat_ms = 10000;
    world_pass(6000);
    struct frame frame;
    assert_int_equal(peer_read(p, &frame), FRAME_HEARTBEAT);
    world_pass(16000);
    peer_expect_end(p);
}

static void test_a_rabbitmq_that_is_silent_is_given_up(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    unsigned connections = broker.connections;
    world_pass(200000); /* heartbeats of RabbitMQ never come here */
    assert_true(broker.connections > connections);
    peer_publish(p, 1, "q", "one");
    peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    peer_close(p);
}

static void test_an_alarm_is_passed_on_without_a_buffer(void **state)
{
    (void)state;
    const char *sets[] = {"pool.publish_buffer_size=0", NULL};
    world_begin(sets);
    struct peer *p = peer_login();
    LIST_ENTRY(world.clients.all.prev, struct client, node)->can_be_blocked = true;
    amqp_connection_blocked_t blocked = {.reason = bytes_of("low on memory")};
    broker_say(0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
    peer_expect(p, 0, AMQP_CONNECTION_BLOCKED_METHOD);
    broker_say(0, AMQP_CONNECTION_UNBLOCKED_METHOD, &(amqp_connection_unblocked_t){0});
    peer_expect(p, 0, AMQP_CONNECTION_UNBLOCKED_METHOD);
    peer_close(p);
}

static void test_a_worker_closes_in_an_alarm(void **state)
{
    (void)state;
    struct peer *p = begin(NULL, NULL);
    amqp_basic_consume_t consume = {.queue = bytes_of("q"), .consumer_tag = bytes_of("tag")};
    peer_send_method(p, 1, AMQP_BASIC_CONSUME_METHOD, &consume);
    peer_expect(p, 1, AMQP_BASIC_CONSUME_OK_METHOD);
    amqp_connection_blocked_t blocked = {.reason = bytes_of("low on memory")};
    broker_say(0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
    amqp_channel_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
    peer_send_method(p, 1, AMQP_CHANNEL_CLOSE_METHOD, &close);
    peer_expect(p, 1, AMQP_CHANNEL_CLOSE_OK_METHOD);
    peer_close(p);
}

static void test_too_many_channels(void **state)
{
    (void)state;
    const char *sets[] = {"pool.publish_buffer_size=100", "pool.max_channels=2", "pool.upstreams=1",
                          NULL};
    world_begin(sets);
    struct peer *p = peer_login();
    for (uint16_t n = 1; n <= 4; n++)
        peer_open_confirming(p, n);
    broker.confirms = BROKER_SILENT;
    broker.refuse_code = 530;
    strcpy(broker.refuse_text, "NOT_ALLOWED - connection limit (1) is reached");
    for (uint16_t n = 1; n <= 4; n++)
        peer_publish(p, n, "q", "one");
    world_run();
    assert_int_equal(disk.appended, 0);
    world_pass(3000); /* who finds no channel goes through the spool */
    assert_true(disk.appended > 0);
    broker.confirms = BROKER_ACKS;
    broker_confirm_all();
    world_pass(30000);
    assert_int_equal(disk_count(false), 0);
    peer_die(p);
}

/* What is still arriving when the proxy stops is stored. */
static void test_who_is_told_to_leave_may_finish(void **state)
{
    (void)state;
    const char *sets[] = {"pool.publish_buffer_size=3", NULL};
    world_begin(sets);
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    struct client *c = LIST_ENTRY(world.clients.all.prev, struct client, node);
    client_leave(c, 320, "CONNECTION_FORCED", 0);
    peer_expect(p, 0, AMQP_CONNECTION_CLOSE_METHOD);
    for (unsigned i = 0; i < 4; i++)
        peer_publish(p, 1, "q", "late");
    world_run();
    assert_int_equal(disk.appended, 3); /* and what finds no room is dropped: it knows */
    peer_send_plain(p, 0, AMQP_CONNECTION_CLOSE_OK_METHOD);
    peer_expect_end(p);
    world_pass(30000);
    assert_int_equal(broker.published, 3);
}

int main(void)
{
#define ALONE(test) cmocka_unit_test_setup_teardown(test, quiet, world_teardown)
    const struct CMUnitTest tests[] = {
        ALONE(test_overflow_rejects),
        ALONE(test_overflow_disconnects),
        ALONE(test_overflow_blocks),
        ALONE(test_a_disk_without_room),
        ALONE(test_memory_that_is_short_holds_publishers),
        ALONE(test_without_a_buffer),
        ALONE(test_what_a_client_that_does_not_read_may_say),
        ALONE(test_a_new_secret_is_rabbitmqs_to_judge),
        ALONE(test_a_limit_of_connections),
        ALONE(test_a_user_that_was_deleted),
        ALONE(test_a_refusal_before_an_outage),
        ALONE(test_unverified_logins_may_be_let_in),
        ALONE(test_a_login_that_nobody_uses_is_forgotten),
        ALONE(test_a_drain_can_be_paused),
        ALONE(test_rejected_messages_are_tried_again_or_dropped),
        ALONE(test_a_damaged_one_is_passed_over),
        ALONE(test_a_rate_holds_the_drain_back),
        ALONE(test_a_rate_is_kept_over_the_ticks),
        ALONE(test_what_is_unroutable_after_the_wait_is_dropped_or_rejected),
        ALONE(test_two_equal_ones_that_are_unroutable),
        ALONE(test_what_is_nacked_again_and_again_is_rejected),
        ALONE(test_a_client_that_is_silent_is_closed),
        ALONE(test_a_rabbitmq_that_is_silent_is_given_up),
        ALONE(test_an_alarm_is_passed_on_without_a_buffer),
        ALONE(test_a_worker_closes_in_an_alarm),
        ALONE(test_too_many_channels),
        ALONE(test_who_is_told_to_leave_may_finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
