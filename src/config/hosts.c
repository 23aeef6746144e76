#include "config/hosts.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

/* The next one without the blanks around it, and `*rest` behind it; NULL: there are no more. */
static const char *next_host(const char **rest, size_t *len)
{
    if (!*rest || !**rest)
        return NULL;
    const char *begin = *rest + strspn(*rest, " \t"), *end = strchrnul(begin, ',');
    *rest = *end ? end + 1 : NULL;
    while (end > begin && isblank((unsigned char)end[-1]))
        end--;
    *len = (size_t)(end - begin);
    return begin;
}

static bool is_name(const char *host, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)host[i]) && !strchr("-._", host[i]))
            return false;
    return len > (host[0] == '.');
}

bool hosts_are_valid(const char *hosts)
{
    const char *host;
    size_t len;
    while ((host = next_host(&hosts, &len)) != NULL)
        if (!is_name(host, len) && !(len == 1 && *host == '*'))
            return false;
    return true;
}

static bool is_below(const char *domain, size_t domain_len, const char *name, size_t len)
{
    if (len + 1 == domain_len) /* it is example itself */
        return strncasecmp(domain + 1, name, len) == 0;
    return len >= domain_len && strncasecmp(domain, name + len - domain_len, domain_len) == 0;
}

bool hosts_have(const char *hosts, const char *name, size_t len)
{
    const char *host;
    size_t host_len;
    while ((host = next_host(&hosts, &host_len)) != NULL) {
        bool is_same = host_len == len && strncasecmp(host, name, len) == 0;
        if (*host == '*' || is_same || (*host == '.' && is_below(host, host_len, name, len)))
            return true;
    }
    return false;
}
