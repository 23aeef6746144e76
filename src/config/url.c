#include "config/url.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/assert.h"
#include "base/memory.h"

enum {
    HOST_MAX = 253,     /* RFC 1035, in the dotted form */
    SHORTSTR_MAX = 255, /* a vhost is a shortstr on the wire */
    PORT_AMQP = 5672,
    PORT_AMQPS = 5671,
};

/* A piece of the text. */
struct piece {
    const char *at;
    size_t len;
};

struct parser {
    unsigned number; /* of the URL, from 1 */
    char *why;
    size_t why_size;
};

static bool refuse(const struct parser *parser, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static bool refuse(const struct parser *parser, const char *format, ...)
{
    int len = snprintf(parser->why, parser->why_size, "URL %u: ", parser->number);
    ENSURE(len > 0 && (size_t)len < parser->why_size);
    va_list args;
    va_start(args, format);
    vsnprintf(parser->why + len, parser->why_size - (size_t)len, format, args);
    va_end(args);
    return false;
}

/* Cuts what is before the first `separator` off the front; false, and nothing changes, if there
 * is none. */
static bool cut(struct piece *rest, char separator, struct piece *front)
{
    const char *end = memchr(rest->at, separator, rest->len);
    if (!end)
        return false;
    *front = (struct piece){rest->at, (size_t)(end - rest->at)};
    rest->at = end + 1;
    rest->len -= front->len + 1;
    return true;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool decode(const struct parser *parser, const char *what, struct piece text, char **decoded)
{
    char *out = malloc(text.len + 1);
    ENSURE(out);
    *decoded = out;
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.at[i];
        if (c == '%') {
            int high = text.len - i > 2 ? hex_digit(text.at[i + 1]) : -1;
            int low = text.len - i > 2 ? hex_digit(text.at[i + 2]) : -1;
            if (high < 0 || low < 0 || (high == 0 && low == 0)) {
                *out = '\0';
                return refuse(parser, "a %% in the %s needs two hex digits, and not 00", what);
            }
            c = (unsigned char)(high << 4 | low);
            i += 2;
        } else if (c <= ' ' || c == 0x7f || strchr("/?#[]@:", c)) {
            *out = '\0';
            return refuse(parser, "write each %s in the %s percent-encoded",
                          c == ' ' ? "space" : "reserved character", what);
        }
        *out++ = (char)c;
    }
    *out = '\0';
    if (strlen(*decoded) > SHORTSTR_MAX)
        return refuse(parser, "the %s is longer than %d bytes", what, SHORTSTR_MAX);
    return true;
}

static bool parse_scheme(const struct parser *parser, struct piece *rest, struct config_upstream *u)
{
    static const char plain[] = "amqp://", tls[] = "amqps://";
    size_t len = sizeof plain - 1;
    u->tls = rest->len >= sizeof tls - 1 && strncasecmp(rest->at, tls, sizeof tls - 1) == 0;
    if (u->tls)
        len = sizeof tls - 1;
    else if (rest->len < len || strncasecmp(rest->at, plain, len) != 0)
        return refuse(parser, "it does not begin with amqp:// or amqps://");
    rest->at += len;
    rest->len -= len;
    u->port = u->tls ? PORT_AMQPS : PORT_AMQP;
    return true;
}

static bool parse_user(const struct parser *parser, struct piece login, struct config_upstream *u)
{
    struct piece user;
    if (!cut(&login, ':', &user) || user.len == 0)
        return refuse(parser, "expected user:password before the @");
    return decode(parser, "user", user, &u->user) &&
           decode(parser, "password", login, &u->password);
}

static bool parse_port(const struct parser *parser, struct piece text, uint16_t *port)
{
    unsigned value = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (!isdigit((unsigned char)text.at[i]) || i == 5)
            value = UINT16_MAX + 1;
        else if (value <= UINT16_MAX)
            value = value * 10 + (unsigned)(text.at[i] - '0');
    }
    if (value == 0 || value > UINT16_MAX)
        return refuse(parser, "expected a port from 1 to 65535 behind the host "
                              "(in a password, each of / ? , @ : is percent-encoded)");
    *port = (uint16_t)value;
    return true;
}

static bool host_is_name(const char *host)
{
    for (; *host; host++)
        if (!isalnum((unsigned char)*host) && !strchr("-._", *host))
            return false;
    return true;
}

static bool parse_host(const struct parser *parser, struct piece rest, struct config_upstream *u)
{
    struct piece host = rest, port = {0};
    bool bracket = rest.len > 0 && rest.at[0] == '[', has_port = false;
    if (bracket) {
        rest.at++, rest.len--;
        if (!cut(&rest, ']', &host) || (rest.len > 0 && rest.at[0] != ':'))
            return refuse(parser, "expected an IPv6 address in [brackets]");
        has_port = rest.len > 0;
        if (has_port)
            port = (struct piece){rest.at + 1, rest.len - 1};
    } else if (cut(&rest, ':', &host)) {
        has_port = true;
        port = rest;
    }
    if (host.len == 0)
        return refuse(parser, "it has no host");
    if (host.len > HOST_MAX)
        return refuse(parser, "the host is longer than %d bytes", HOST_MAX);
    u->host = strndup(host.at, host.len);
    ENSURE(u->host);
    if (bracket && inet_pton(AF_INET6, u->host, &(struct in6_addr){0}) != 1)
        return refuse(parser, "expected an IPv6 address in [brackets]");
    if (!bracket && !host_is_name(u->host))
        return refuse(parser, "the host is neither a name nor an address (IPv6: in brackets)");
    return !has_port || parse_port(parser, port, &u->port);
}

static bool parse_vhost(const struct parser *parser, const struct piece *vhost,
                        struct config_upstream *u)
{
    if (u->user && !vhost) {
        u->vhost = strdup("/");
        ENSURE(u->vhost);
        return true;
    }
    if (!vhost || (vhost->len == 0 && !u->user))
        return true;
    if (!u->user)
        return refuse(parser, "a vhost needs user:password@ before the host");
    return decode(parser, "vhost", *vhost, &u->vhost);
}

static bool parse_one(const struct parser *parser, struct piece rest, struct config_upstream *u)
{
    struct piece authority, login, query;
    if (!parse_scheme(parser, &rest, u))
        return false;
    if (cut(&rest, '?', &query))
        return refuse(parser, "parameters behind a ? are not taken, see the keys of [upstream]");
    bool has_vhost = cut(&rest, '/', &authority);
    if (!has_vhost)
        authority = rest;
    if (cut(&authority, '@', &login) && !parse_user(parser, login, u))
        return false;
    return parse_host(parser, authority, u) && parse_vhost(parser, has_vhost ? &rest : NULL, u);
}

static struct piece trimmed(struct piece text)
{
    for (; text.len > 0 && isspace((unsigned char)text.at[0]); text.at++)
        text.len--;
    while (text.len > 0 && isspace((unsigned char)text.at[text.len - 1]))
        text.len--;
    return text;
}

struct config_upstream *url_parse(const char *urls, unsigned *count, char *why, size_t why_size)
{
    struct piece rest = {urls, strlen(urls)}, one;
    struct config_upstream *list = NULL;
    struct parser parser = {0, why, why_size};
    bool more = true;
    while (more) {
        more = cut(&rest, ',', &one);
        if (!more)
            one = rest;
        list = memory_grow(list, ++parser.number, sizeof *list);
        struct config_upstream *u = &list[parser.number - 1];
        *u = (struct config_upstream){0};
        if (!parse_one(&parser, trimmed(one), u)) {
            config_upstreams_free(list, parser.number);
            return NULL;
        }
    }
    *count = parser.number;
    return list;
}

void config_upstreams_free(struct config_upstream *upstreams, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        free(upstreams[i].host);
        free(upstreams[i].user);
        free(upstreams[i].password);
        free(upstreams[i].vhost);
    }
    free(upstreams);
}

/* In a valid list an @ ends a login and nothing else, and its password has neither : nor , in it.
 */
void url_print(const char *urls, FILE *out)
{
    for (;;) {
        const char *at = strchr(urls, '@');
        if (!at)
            break;
        const char *colon = at;
        while (*colon != ':')
            colon--;
        fprintf(out, "%.*s:***@", (int)(colon - urls), urls);
        urls = at + 1;
    }
    fputs(urls, out);
}
