/* Logins whose password is a token: which of several is used, and for whom. */

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../world/world.h"
#include "base/log.h"
#include "pool/connections.h"

static int quiet(void **state)
{
    (void)state;
    log_init(LOG_ERROR, LOG_LOGFMT);
    world_begin((const char *[]){"pool.publish_buffer_size=1000", NULL});
    return 0;
}

static char long_token[256], short_token[256], old_token[256], wide_token[256];

/* Base64url of the claims, between two parts that nobody reads here. */
static void make_token(char token[256], int lifetime_s, const char *scope)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    char claims[128];
    snprintf(claims, sizeof claims, "{\"sub\":\"A\",\"exp\":%lld,\"scope\":[\"%s\"]}",
             (long long)time(NULL) + lifetime_s, scope);
    size_t len = strlen(claims), at = (size_t)sprintf(token, "eyJhIjoxfQ.");
    for (size_t i = 0; i < len; i += 3) {
        uint32_t bits = 0;
        for (size_t k = 0; k < 3; k++)
            bits = bits << 8 | (i + k < len ? (uint8_t)claims[i + k] : 0);
        size_t count = len - i >= 3 ? 4 : len - i + 1;
        for (size_t k = 0; k < count; k++)
            token[at++] = digits[bits >> (18 - 6 * k) & 63];
    }
    sprintf(token + at, ".c2ln");
}

static void make_tokens(void)
{
    make_token(long_token, 7200, "write:a");
    make_token(short_token, 600, "write:a");
    make_token(old_token, -10, "write:a");
    make_token(wide_token, 7200, "write:all");
}

static struct peer *login(const char *token)
{
    uint16_t code = 0;
    struct peer *p = peer_login_as("svc", token, "/", &code);
    assert_non_null(p);
    return p;
}

static void update_secret(struct peer *p, const char *token)
{
    amqp_connection_update_secret_t m = {.new_secret = bytes_of(token),
                                         .reason = bytes_of("renewed")};
    peer_send_method(p, 0, AMQP_CONNECTION_UPDATE_SECRET_METHOD, &m);
    peer_expect(p, 0, AMQP_CONNECTION_UPDATE_SECRET_OK_METHOD);
}

static void expect_carried(const char *body, const char *token)
{
    unsigned count = 0;
    for (unsigned i = 0; i < broker.published; i++)
        if (strcmp(broker.bodies[i], body) == 0) {
            count++;
            assert_string_equal(broker.passwords[broker.origins[i]], token);
        }
    assert_int_equal(count, 1);
}

static struct pool *the_pool(void)
{
    return LIST_ENTRY(world.pools.all.next, struct pool, node);
}

/* One client brings it; the login's connections keep the one that holds longest. */
static void test_one_that_ends_sooner_is_not_everybodys(void **state)
{
    (void)state;
    struct peer *other = login(long_token), *changes = login(long_token);
    update_secret(changes, short_token);
    assert_string_equal(the_pool()->secrets.current, long_token);
    strcpy(broker.refused_password, short_token); /* as if it had run out */
    broker_cut();
    world_pass(5000);
    peer_open_confirming(other, 1);
    peer_publish(other, 1, "q", "of the other");
    peer_expect(other, 1, AMQP_BASIC_ACK_METHOD);
    world_pass(2000);
    expect_carried("of the other", long_token);
    peer_close(other);
    peer_close(changes);
}

static void test_one_that_holds_longer_is_everybodys(void **state)
{
    (void)state;
    struct peer *other = login(short_token), *changes = login(short_token);
    update_secret(changes, long_token);
    assert_string_equal(the_pool()->secrets.current, long_token);
    peer_close(other);
    peer_close(changes);
}

/* RabbitMQ no longer takes the one that holds longest: one that it has accepted as well is good. */
static void test_another_one_of_the_login_is_tried(void **state)
{
    (void)state;
    struct peer *p = login(long_token);
    peer_close(login(short_token));
    assert_string_equal(the_pool()->secrets.current, long_token);
    strcpy(broker.refused_password, long_token);
    peer_open_confirming(p, 1);
    broker_cut();
    peer_publish(p, 1, "q", "stored");
    peer_expect(p, 1, AMQP_BASIC_ACK_METHOD);
    for (unsigned i = 0; i < 8; i++) { /* at once: nobody is suspected meanwhile */
        world_pass(250);
        assert_int_equal(the_pool()->login, LOGIN_PROVEN);
    }
    world_pass(20000);
    assert_string_equal(the_pool()->secrets.current, short_token);
    expect_carried("stored", short_token);
    assert_int_equal(world.rt.counters.login_refused, 0);
    peer_close(p);
}

/* RabbitMQ is away when they are brought, and somebody logs in with the old ones meanwhile. */
static void test_new_rights_of_one_are_not_anothers(void **state)
{
    (void)state;
    struct peer *changes = login(long_token);
    broker_down();
    world_pass(1000);
    update_secret(changes, wide_token);
    struct peer *other = login(long_token);
    peer_open_confirming(other, 1);
    broker_up();
    peer_publish(other, 1, "q", "of narrow");
    peer_expect(other, 1, AMQP_BASIC_ACK_METHOD);
    world_pass(30000);
    expect_carried("of narrow", long_token);
    peer_die(other);
    peer_die(changes);
}

/* The pool is connected with it still; RabbitMQ would let nobody in with it. */
static void test_one_that_has_run_out_is_asked_about(void **state)
{
    (void)state;
    peer_close(login(old_token));
    strcpy(broker.refused_password, old_token);
    uint16_t code = 0;
    assert_null(peer_login_as("svc", old_token, "/", &code));
    assert_int_equal(code, 403);
}

int main(void)
{
#define ALONE(test) cmocka_unit_test_setup_teardown(test, quiet, world_teardown)
    const struct CMUnitTest tests[] = {
        ALONE(test_one_that_ends_sooner_is_not_everybodys),
        ALONE(test_one_that_holds_longer_is_everybodys),
        ALONE(test_another_one_of_the_login_is_tried),
        ALONE(test_new_rights_of_one_are_not_anothers),
        ALONE(test_one_that_has_run_out_is_asked_about),
    };
    make_tokens();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
