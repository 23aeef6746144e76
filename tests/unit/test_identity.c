/* Whose a login is: by its name, or by what a token says. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pool/identity.h"

/* Base64url of the claims, between two parts that nobody reads here. */
static char *make_token(const char *claims)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    static char token[4096];
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
    return token;
}

static void check_name(const char *user, const char *claims, const char *name,
                       const char *dial_user)
{
    struct identity id;
    identity_init(&id, user, make_token(claims));
    assert_string_equal(id.name, name);
    assert_string_equal(id.dial_user, dial_user);
    identity_clear(&id);
}

static void test_names(void **state)
{
    (void)state;
    check_name("svc", "{\"sub\":\"A\"}", "svc (A)", "svc");
    check_name("svc", "{\"sub\":\"A\",\"iss\":\"me\"}", "svc (A, me)", "svc");
    check_name("svc", "{\"client_id\":\"A\",\"iss\":\"me\"}", "svc (A, me)", "svc");
    check_name("svc", "{\"sub\":\"A\",\"client_id\":\"A\",\"iss\":\"me\"}", "svc (A, me)", "svc");
    check_name("svc", "{\"sub\":\"A\",\"client_id\":\"B\",\"iss\":\"me\"}", "svc (A, B, me)",
               "svc");
    check_name("svc", "{\"sub\":\"A\",\"client_id\":\"B\"}", "svc (A, B, )", "svc");
    check_name("", "{\"sub\":\"A\"}", " (A)", "");
    /* As it was found in the spool: the same again. */
    check_name("svc (A, me)", "{\"sub\":\"A\",\"iss\":\"me\"}", "svc (A, me)", "svc");
    check_name("svc (B, me)", "{\"sub\":\"A\",\"iss\":\"me\"}", "svc (B, me) (A, me)",
               "svc (B, me)");
    /* No subject can look like another identity. */
    check_name("svc", "{\"sub\":\"x (A, me)\",\"iss\":\"me\"}", "svc (x %28A%2C me%29, me)", "svc");
    check_name("svc", "{\"sub\":\"50%\"}", "svc (50%25)", "svc");
}

static void test_passwords_that_are_no_tokens(void **state)
{
    (void)state;
    static const char *const passwords[] = {"",
                                            "secret",
                                            "a.b",
                                            "a.b.c",
                                            "..",
                                            "a.b.c.d",
                                            "a.!!.c",
                                            "a.e30.c" /* {} */,
                                            "a.W10.c" /* [] */,
                                            "a.eyJzdWIiOjF9.c" /* {"sub":1} */};
    for (size_t i = 0; i < sizeof passwords / sizeof *passwords; i++) {
        struct identity id;
        identity_init(&id, "shop", passwords[i]);
        assert_string_equal(id.name, "shop");
        assert_string_equal(id.dial_user, "shop");
        assert_false(id.is_token);
        assert_int_equal(id.rights, 0);
        assert_false(identity_has_expired(&id));
        identity_clear(&id);
    }
}

static uint64_t rights(const char *claims)
{
    struct identity id;
    identity_init(&id, "svc", make_token(claims));
    assert_true(id.is_token);
    uint64_t value = id.rights;
    identity_clear(&id);
    return value;
}

static void test_rights(void **state)
{
    (void)state;
    uint64_t narrow = rights("{\"sub\":\"A\",\"scope\":\"a\",\"jti\":\"1\",\"exp\":1}");
    assert_int_equal(narrow, rights("{\"exp\":2,\"jti\":\"2\",\"scope\":\"a\",\"sub\":\"A\"}"));
    assert_int_not_equal(narrow, rights("{\"sub\":\"A\",\"scope\":\"b\"}"));
    assert_int_not_equal(narrow, rights("{\"sub\":\"A\",\"scp\":\"a\"}"));
    assert_int_not_equal(narrow, rights("{\"sub\":\"A\",\"scope\":\"a\",\"aud\":\"r\"}"));
    assert_int_not_equal(narrow, rights("{\"sub\":\"A\"}"));
    assert_int_not_equal(0, rights("{\"sub\":\"A\"}"));
}

static void test_expiry(void **state)
{
    (void)state;
    struct identity id;
    identity_init(&id, "svc", make_token("{\"sub\":\"A\",\"exp\":1000000000}"));
    assert_true(identity_has_expired(&id));
    identity_clear(&id);
    identity_init(&id, "svc", make_token("{\"sub\":\"A\",\"exp\":99999999999}"));
    assert_false(identity_has_expired(&id));
    uint64_t late = id.expires_s;
    identity_clear(&id);
    identity_init(&id, "svc", make_token("{\"sub\":\"A\",\"exp\":1000000000.5}"));
    assert_true(identity_has_expired(&id));
    identity_clear(&id);
    identity_init(&id, "svc", make_token("{\"sub\":\"A\"}"));
    assert_true(id.expires_s > late); /* never is later than any time */
    assert_false(identity_has_expired(&id));
    identity_clear(&id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_passwords_that_are_no_tokens),
        cmocka_unit_test(test_rights),
        cmocka_unit_test(test_expiry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
