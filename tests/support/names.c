/* Preloaded into amqpbuf: the name in NAMES_NAME has the addresses in NAMES_ADDRESSES, separated by
 * spaces and in that order, as if it stood in a DNS; without any, that DNS is silent. */

#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int resolver(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *restrict name, const char *restrict service,
                const struct addrinfo *restrict hints, struct addrinfo **restrict found)
{
    resolver *resolve = (resolver *)(void *)dlsym(RTLD_NEXT, "getaddrinfo");
    const char *known = getenv("NAMES_NAME"), *addresses = getenv("NAMES_ADDRESSES");
    if (!name || !known || !addresses || strcmp(name, known) != 0)
        return resolve(name, service, hints, found);
    if (!addresses[0]) {
        sleep(3600);
        return EAI_AGAIN;
    }
    char list[256];
    snprintf(list, sizeof list, "%s", addresses);
    struct addrinfo **end = found;
    char *rest;
    for (char *one = strtok_r(list, " ", &rest); one; one = strtok_r(NULL, " ", &rest)) {
        int status = resolve(one, service, hints, end);
        if (status != 0)
            return status;
        while (*end)
            end = &(*end)->ai_next;
    }
    return 0;
}
