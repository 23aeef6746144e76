#include "config/address.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

/* As IPv6 has it: an IPv4 address is mapped (RFC 4291, 2.5.5.2). */
static bool read_address(const char *text, struct in6_addr *address)
{
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
    struct in_addr in;
    if (inet_pton(AF_INET6, text, address) == 1)
        return true;
    if (inet_aton(text, &in) == 0) /* 127.1 and 0x7f000001 too, as getaddrinfo */
        return false;
    memcpy(address->s6_addr, mapped, sizeof mapped);
    memcpy(address->s6_addr + sizeof mapped, &in, sizeof in);
    return true;
}

static bool is_v4(const struct in6_addr *address)
{
    return IN6_IS_ADDR_V4MAPPED(address);
}

static bool is_any_v4(const struct in6_addr *address)
{
    static const unsigned char none[4];
    return is_v4(address) && memcmp(address->s6_addr + 12, none, sizeof none) == 0;
}

static bool is_any_v6(const struct in6_addr *address)
{
    return IN6_IS_ADDR_UNSPECIFIED(address);
}

static bool is_loopback(const struct in6_addr *address)
{
    return IN6_IS_ADDR_LOOPBACK(address) || (is_v4(address) && address->s6_addr[12] == 127);
}

static bool takes(const struct in6_addr *address, const struct in6_addr *other)
{
    return is_any_v6(address) || (is_any_v4(address) && is_v4(other)) ||
           memcmp(address, other, sizeof *address) == 0;
}

bool address_takes(const char *address, const char *other)
{
    struct in6_addr a, b;
    return read_address(address, &a) && read_address(other, &b) && takes(&a, &b);
}

static bool leads_to(const struct in6_addr *to, const struct in6_addr *at)
{
    /* Linux takes a connection to no address for one to the loopback's. */
    static const char v4[] = "127.0.0.1", v6[] = "::1";
    struct in6_addr loopback;
    if (is_any_v4(to) || is_any_v6(to))
        return read_address(is_any_v4(to) ? v4 : v6, &loopback) && takes(at, &loopback);
    return takes(at, to) && (is_loopback(to) || memcmp(to, at, sizeof *to) == 0);
}

bool address_leads_to(const char *host, const char *address)
{
    struct in6_addr to, at;
    if (!read_address(address, &at))
        return false;
    if (strcasecmp(host, "localhost") == 0)
        return (read_address("127.0.0.1", &to) && takes(&at, &to)) ||
               (read_address("::1", &to) && takes(&at, &to));
    return read_address(host, &to) && leads_to(&to, &at);
}
