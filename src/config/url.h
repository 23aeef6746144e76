#pragma once

/* upstream.url: brokers after RabbitMQ's URI specification
 * (https://www.rabbitmq.com/docs/uri-spec), several separated by commas.
 *
 *   amqp[s]://[user:password@]host[:port][/vhost]
 *
 * User, password and vhost are percent-decoded; a comma in them is written %2C. As that
 * specification has it, no slash at all is the vhost "/", a slash with nothing behind it is the
 * vhost with the empty name, and %2F is "/". Narrower than the specification: a user comes with a
 * password, a vhost (other than a lone slash) comes with a user, and there is no query. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* One broker of upstream.url. */
struct config_upstream {
    bool tls;
    uint16_t port;
    char *host;                    /* name or address, without the brackets of an IPv6 address */
    char *user, *password, *vhost; /* NULL if the URL has none; percent-decoded */
};

/* Takes `urls` apart into an array that config_upstreams_free frees, or returns NULL with the
 * reason in `why`, which never has a part of the password in it. */
struct config_upstream *url_parse(const char *urls, unsigned *count, char *why, size_t why_size);

/* Writes valid URLs with *** for each password. */
void url_print(const char *urls, FILE *out);
void config_upstreams_free(struct config_upstream *upstreams, unsigned count);
