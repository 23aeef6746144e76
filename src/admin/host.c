#include "admin/host.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "config/hosts.h"

static bool is_address(const char *name, size_t len)
{
    struct in_addr address;
    char text[INET_ADDRSTRLEN];
    if (len >= sizeof text)
        return false;
    snprintf(text, sizeof text, "%.*s", (int)len, name);
    return inet_pton(AF_INET, text, &address) == 1;
}

bool host_is_ours(const char *field, const char *hosts)
{
    if (!field || field[0] == '[') /* an IPv6 address */
        return true;
    size_t len = strcspn(field, ":");
    if (len > 0 && field[len - 1] == '.') /* the root of DNS */
        len--;
    return !memchr(field, '.', len) || is_address(field, len) || hosts_have(hosts, field, len);
}
