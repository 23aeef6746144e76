/* Publishes that are alike and lie behind each other go on in one piece; what a client, RabbitMQ
 * and the spool see is the same as if each had come alone. */

#include <stdio.h>
#include <string.h>

#include "../world/world.h"

#include "amqp/wire.h"
#include "session/channel.h"
#include "session/relay.h"

enum { TUNED_FRAME_MAX = 131072, MOST = 64, BYTES_MAX = 160 * 1024 };

/* What one client sends in one piece. */
static uint8_t bytes[BYTES_MAX];
static size_t used;

static void add_frame(uint8_t type, uint16_t channel, const void *payload, size_t len)
{
    assert_true(used + len + FRAME_OVERHEAD_BYTES <= sizeof bytes);
    memcpy(bytes + used + FRAME_HEAD_BYTES, payload, len);
    used += frame_wrap(bytes + used, type, channel, (uint32_t)len);
}

static void add_start(uint16_t channel, const char *key, bool mandatory, uint8_t priority,
                      uint64_t body_size)
{
    uint8_t method[64] = {0, 60, 0, 40}, header[16] = {0, 60};
    size_t len = strlen(key);
    method[7] = (uint8_t)len; /* behind the ticket and an empty exchange */
    memcpy(method + 8, key, len);
    method[8 + len] = mandatory;
    add_frame(FRAME_METHOD, channel, method, 9 + len);
    wire_put64(header + 4, body_size);
    wire_put16(header + 12, priority ? 1 << 11 : 0);
    header[14] = priority;
    add_frame(FRAME_HEADER, channel, header, priority ? 15 : 14);
}

static void add(uint16_t channel, const char *key, const char *body)
{
    add_start(channel, key, false, 0, strlen(body));
    if (*body)
        add_frame(FRAME_BODY, channel, body, strlen(body));
}

static void add_large(uint16_t channel, size_t size)
{
    static uint8_t body[BYTES_MAX];
    add_start(channel, "q", false, 0, size);
    add_frame(FRAME_BODY, channel, body, size);
}

static void add_numbered(uint16_t channel, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        char body[16];
        snprintf(body, sizeof body, "%.*u", 1 + (int)(i % 7), i);
        add(channel, "q", body);
    }
}

static void send_all(struct peer *p)
{
    peer_send(p, bytes, used);
    used = 0;
    world_run();
}

static void expect_numbered(unsigned first, unsigned count)
{
    assert_int_equal(broker.published, first + count);
    for (unsigned i = 0; i < count; i++) {
        char body[16];
        snprintf(body, sizeof body, "%.*u", 1 + (int)(i % 7), i);
        assert_string_equal(broker.bodies[first + i], body);
    }
}

static void expect_acked_up_to(struct peer *p, uint16_t channel, uint64_t tag)
{
    uint64_t acked = 0;
    while (acked < tag) {
        const amqp_basic_ack_t *ack = peer_expect(p, channel, AMQP_BASIC_ACK_METHOD);
        acked = ack->delivery_tag;
    }
    assert_int_equal(acked, tag);
    peer_expect_nothing(p);
}

static void test_all_arrive_in_order(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker.confirms = BROKER_SILENT;
    add_numbered(1, MOST);
    send_all(p);
    expect_numbered(0, MOST);
    assert_int_equal(world_queue()->retained, MOST);
    assert_int_equal(world.rt.counters.forwarded, MOST);
    peer_expect_nothing(p);
    broker_confirm_all();
    expect_acked_up_to(p, 1, MOST);
    assert_int_equal(world_queue()->retained, 0);
    broker.confirms = BROKER_ACKS;
    add_numbered(1, MOST); /* nothing is retained that they could be like */
    send_all(p);
    expect_acked_up_to(p, 1, 2 * MOST);
    peer_close(p);
}

/* The upstream channel has another number: each frame of a run gets it, and nothing else changes.
 */
static void test_numbers_of_channels_are_rewritten(void **state)
{
    (void)state;
    static const char *const bodies[] = {"a", "", "bb", "", "", "ccc", "ccc", "d"};
    struct peer *p = peer_login();
    peer_open_confirming(p, 0x305);
    broker.confirms = BROKER_SILENT;
    for (unsigned i = 0; i < 8; i++)
        add(0x305, "q", bodies[i]);
    send_all(p);
    assert_int_equal(broker.published, 8);
    for (unsigned i = 0; i < 8; i++)
        assert_string_equal(broker.bodies[i], bodies[i]);
    broker_confirm_all();
    expect_acked_up_to(p, 0x305, 8);
    peer_close(p);
}

static void test_what_differs_is_no_obstacle(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    peer_open_confirming(p, 2);
    broker.confirms = BROKER_SILENT;
    add(1, "q", "a");
    add(1, "q", "b");
    add(1, "qq", "c");
    add(1, "r", "d");
    add(2, "r", "e");
    add(1, "r", "f");
    add_start(1, "r", true, 0, 1);
    add_frame(FRAME_BODY, 1, "g", 1);
    add_start(1, "r", true, 7, 1);
    add_frame(FRAME_BODY, 1, "h", 1);
    add_start(1, "r", true, 8, 1);
    add_frame(FRAME_BODY, 1, "i", 1);
    add_start(1, "r", true, 8, 4); /* in two frames */
    add_frame(FRAME_BODY, 1, "jj", 2);
    add_frame(FRAME_BODY, 1, "kk", 2);
    add_start(1, "r", true, 8, 0);
    add_start(1, "r", true, 8, 2);
    add_frame(FRAME_BODY, 1, "ll", 2);
    send_all(p);
    static const char *const expected[] = {"a", "b", "c", "d",    "e", "f",
                                           "g", "h", "i", "jjkk", "",  "ll"};
    assert_int_equal(broker.published, 12);
    for (unsigned i = 0; i < 12; i++)
        assert_string_equal(broker.bodies[i], expected[i]);
    broker_confirm_all();
    bool first = false, second = false;
    while (!first || !second) {
        struct frame frame;
        assert_int_equal(peer_read(p, &frame), AMQP_BASIC_ACK_METHOD);
        uint64_t tag = wire_get64(frame.payload + 4);
        first = first || (frame.channel == 1 && tag == 11);
        second = second || (frame.channel == 2 && tag == 1);
    }
    peer_close(p);
}

static void test_cut_at_every_byte(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    add_numbered(1, 4);
    size_t whole = used;
    unsigned sent = 0;
    for (size_t cut = 1; cut < whole && sent < 240; cut += 3, sent += 4) {
        peer_send(p, bytes, cut);
        world_run();
        peer_send(p, bytes + cut, whole - cut);
        world_run();
        expect_numbered(sent, 4);
    }
    used = 0;
    expect_acked_up_to(p, 1, sent);
    peer_close(p);
}

static void test_the_window_holds_them(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=1000", "pool.window=8",
                                 "pool.upstreams=1", NULL});
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker.confirms = BROKER_SILENT;
    add_numbered(1, 20);
    send_all(p);
    for (unsigned sent = 8; sent < 20; sent += 8) {
        assert_int_equal(broker.published, sent);
        assert_int_equal(world_queue()->retained, 8);
        broker_confirm_all();
        world_run();
    }
    broker_confirm_all();
    expect_acked_up_to(p, 1, 20);
    expect_numbered(0, 20);
    peer_close(p);
}

static void test_the_windows_bytes_hold_them(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=1000", "pool.window_bytes=1KiB",
                                 "pool.upstreams=1", NULL});
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker.confirms = BROKER_SILENT;
    /* Of each 10 + 14 + 10 bytes: 26 of them are in 7 eighths of a KiB. */
    for (unsigned i = 0; i < 40; i++)
        add(1, "q", "0123456789");
    send_all(p);
    assert_int_equal(broker.published, 26);
    broker_confirm_all();
    world_run();
    assert_int_equal(broker.published, 40);
    broker_confirm_all();
    expect_acked_up_to(p, 1, 40);
    peer_close(p);
}

static void test_the_buffer_has_a_place_for_each(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=5", NULL});
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker.confirms = BROKER_SILENT;
    add_numbered(1, 12);
    send_all(p);
    assert_int_equal(broker.published, 5);
    broker_confirm_all();
    world_run();
    assert_int_equal(broker.published, 10);
    broker_confirm_all();
    world_run();
    broker_confirm_all();
    expect_acked_up_to(p, 1, 12);
    expect_numbered(0, 12);
    peer_close(p);
}

static void test_a_loss_spools_all_of_them(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker.confirms = BROKER_SILENT;
    add_numbered(1, MOST);
    send_all(p);
    broker_down();
    expect_acked_up_to(p, 1, MOST);
    for (unsigned i = 0; i < MOST; i++) {
        char body[16];
        snprintf(body, sizeof body, "%.*u", 1 + (int)(i % 7), i);
        assert_string_equal(disk_body(i), body);
    }
    broker.confirms = BROKER_ACKS;
    broker_up();
    world_pass(30000);
    expect_numbered(MOST, MOST);
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
}

static void test_a_nack_that_nobody_hears_spools_them(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    broker.confirms = BROKER_NACKS;
    add_numbered(1, 10);
    send_all(p);
    assert_int_equal(disk.appended, 10);
    broker.confirms = BROKER_ACKS;
    world_pass(30000);
    expect_numbered(broker.published - 10, 10); /* a drain has tried them before */
    assert_int_equal(disk_count(false), 0);
    peer_close(p);
}

static void test_late_ones_are_doubted(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=1000", "pool.confirm_timeout=1s", NULL});
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker.confirms = BROKER_SILENT;
    add_numbered(1, 10);
    send_all(p);
    world_pass(2000);
    expect_acked_up_to(p, 1, 10); /* of the disk */
    assert_int_equal(disk_count(false), 10);
    broker_confirm_all();
    world_run();
    assert_int_equal(disk_count(false), 0);
    assert_int_equal(broker.published, 10);
    peer_close(p);
}

static void test_a_burst_leaves_no_room_behind(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=1000", "pool.window=1000", NULL});
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker.confirms = BROKER_SILENT;
    add_numbered(1, 600);
    send_all(p);
    struct client *client = LIST_ENTRY(world.clients.all.prev, struct client, node);
    const struct unconfirmed *unconfirmed = &client_channel(client, 1)->relay->unconfirmed;
    world_pass(1500);
    assert_true(unconfirmed->capacity >= 600);
    broker_confirm_all();
    expect_acked_up_to(p, 1, 600);
    world_pass(1500);
    assert_true(unconfirmed->capacity <= 256);
    peer_close(p);
}

static void test_garbage_behind_them_is_refused(void **state)
{
    (void)state;
    for (unsigned which = 0; which < 4; which++) {
        struct peer *p = peer_login();
        peer_open_confirming(p, 1);
        unsigned before = broker.published;
        add_numbered(1, 3);
        size_t end = used;
        if (which == 3)
            add_large(1, TUNED_FRAME_MAX + 1); /* in one frame */
        else
            add(1, "q", "last");
        if (which == 0)
            bytes[used - 1] = 0; /* the end octet of its body */
        else if (which == 1)
            bytes[end + FRAME_HEAD_BYTES + 4 + 2 + 1 + 2 + 1] = 0; /* of its method */
        else if (which == 2)
            wire_put32(bytes + used - 4 - 1 - 4, 5); /* a body of one more byte than announced */
        if (which == 2)
            bytes[used++] = FRAME_END;
        peer_send(p, bytes, used);
        used = 0;
        struct frame frame;
        uint32_t method;
        while ((method = peer_read(p, &frame)) == AMQP_BASIC_ACK_METHOD)
            continue;
        assert_int_equal(method, AMQP_CONNECTION_CLOSE_METHOD);
        assert_int_equal(wire_get16(frame.payload + 4), which == 2 ? 505 : 501);
        assert_int_equal(broker.published, before + 3);
        peer_die(p);
        world_run();
    }
}

static void test_stored_first_they_are_not_sent_live(void **state)
{
    (void)state;
    world_begin((const char *[]){"pool.publish_buffer_size=1000", "spool.mode=always", NULL});
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    add_numbered(1, 10);
    send_all(p);
    assert_int_equal(disk.appended, 10);
    expect_acked_up_to(p, 1, 10);
    expect_numbered(0, 10);
    assert_int_equal(world.rt.counters.forwarded, 0);
    peer_close(p);
}

static void test_an_outage_between_them(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker.confirms = BROKER_SILENT;
    add_numbered(1, 10);
    send_all(p);
    broker_down();
    add_numbered(1, 10);
    send_all(p);
    expect_acked_up_to(p, 1, 20);
    assert_int_equal(disk_count(false), 20);
    broker.confirms = BROKER_ACKS;
    broker_up();
    world_pass(30000);
    assert_int_equal(broker.published, 30);
    expect_numbered(20, 10);
    peer_close(p);
}

/* RabbitMQ may still return the second: what the proxy answers by itself waits for that. */
static void test_each_of_them_is_mandatory(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_channel(p, 1);
    broker.confirms = BROKER_SILENT;
    for (unsigned i = 0; i < 2; i++) {
        add_start(1, "q", true, 0, 1);
        add_frame(FRAME_BODY, 1, "m", 1);
    }
    send_all(p);
    assert_int_equal(broker.published, 2);
    amqp_basic_ack_t first = {.delivery_tag = 1};
    broker_say(1, AMQP_BASIC_ACK_METHOD, &first);
    amqp_confirm_select_t select = {0};
    peer_send_method(p, 1, AMQP_CONFIRM_SELECT_METHOD, &select);
    world_run();
    assert_int_equal(world_queue()->retained, 1);
    peer_expect_nothing(p);
    broker_confirm_all();
    peer_expect(p, 1, AMQP_CONFIRM_SELECT_OK_METHOD);
    peer_close(p);
}

static void add_with_header(const char *text)
{
    uint8_t header[64] = {0, 60}, method[] = {0, 60, 0, 40, 0, 0, 0, 1, 'q', 0};
    size_t len = strlen(text);
    add_frame(FRAME_METHOD, 1, method, sizeof method);
    wire_put64(header + 4, 1);
    wire_put16(header + 12, 1 << 13);
    wire_put32(header + 14, (uint32_t)(7 + len)); /* "h": a long string */
    memcpy(header + 18, "\1hS", 3);
    wire_put32(header + 21, (uint32_t)len);
    memcpy(header + 25, text, len);
    add_frame(FRAME_HEADER, 1, header, 25 + len);
    add_frame(FRAME_BODY, 1, "b", 1);
}

/* RabbitMQ would end a connection over the second: its client is set apart for it. */
static void test_properties_are_looked_at(void **state)
{
    (void)state;
    struct peer *p = peer_login();
    peer_open_confirming(p, 1);
    broker.confirms = BROKER_SILENT;
    add_with_header("bmq.rabbitmq.reply-to.x");
    add_with_header("cmq.rabbitmq.reply-to.x");
    send_all(p);
    const struct client *client = LIST_ENTRY(world.clients.all.next, struct client, node);
    assert_int_equal(client->place, CLIENT_SHARES);
    add_with_header("amq.rabbitmq.reply-to.x");
    send_all(p);
    assert_int_equal(client->place, CLIENT_APART);
    broker_confirm_all();
    world_run();
    broker_confirm_all();
    expect_acked_up_to(p, 1, 3);
    peer_close(p);
}

#define IN_WORLD(test) cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_WORLD(test_all_arrive_in_order),
        IN_WORLD(test_numbers_of_channels_are_rewritten),
        IN_WORLD(test_what_differs_is_no_obstacle),
        IN_WORLD(test_cut_at_every_byte),
        cmocka_unit_test_teardown(test_the_window_holds_them, world_teardown),
        cmocka_unit_test_teardown(test_the_windows_bytes_hold_them, world_teardown),
        cmocka_unit_test_teardown(test_the_buffer_has_a_place_for_each, world_teardown),
        IN_WORLD(test_a_loss_spools_all_of_them),
        IN_WORLD(test_a_nack_that_nobody_hears_spools_them),
        cmocka_unit_test_teardown(test_late_ones_are_doubted, world_teardown),
        cmocka_unit_test_teardown(test_a_burst_leaves_no_room_behind, world_teardown),
        IN_WORLD(test_garbage_behind_them_is_refused),
        cmocka_unit_test_teardown(test_stored_first_they_are_not_sent_live, world_teardown),
        IN_WORLD(test_an_outage_between_them),
        IN_WORLD(test_each_of_them_is_mandatory),
        IN_WORLD(test_properties_are_looked_at),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
