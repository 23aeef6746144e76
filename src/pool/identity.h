#pragma once

/* Who a login is.
 *
 * For a password that is the user's name. With a token (a JWT, RFC 7519, which RabbitMQ takes as
 * the password) RabbitMQ ignores the name and goes by what the token says: its subject and its
 * issuer make the identity, whatever name stands beside it and however often it is renewed. Nothing
 * is believed of a token here: RabbitMQ has to accept it first, and then it says whose it is. */

#include <stdbool.h>
#include <stdint.h>

struct identity {
    char *name;         /* a queue's user: "NAME", for a token "NAME (SUBJECT, ISSUER)" */
    char *dial_user;    /* PLAIN's user name */
    uint64_t rights;    /* differs where a token's permissions differ; 0 for a password */
    uint64_t expires_s; /* since 1970; UINT64_MAX: never, as far as can be seen */
    bool is_token;
};

/* `user` as a client gives it, or the name of an identity that was found in the spool. */
void identity_init(struct identity *, const char *user, const char *password);
void identity_clear(struct identity *);
bool identity_has_expired(const struct identity *);
