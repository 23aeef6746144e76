#include "pool/caution.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void caution_beware(struct caution *c, amqp_method_number_t method, uint64_t now_ms)
{
    unsigned place = 0;
    for (unsigned i = 0; i < CAUTION_METHODS; i++) {
        if (c->methods[i].method == method) {
            place = i;
            break;
        }
        if (c->methods[i].until_ms < c->methods[place].until_ms)
            place = i;
    }
    c->methods[place].method = method;
    c->methods[place].until_ms = now_ms + CAUTION_METHOD_MS;
}

bool caution_is_wary(const struct caution *c, amqp_method_number_t method, uint64_t now_ms)
{
    for (unsigned i = 0; i < CAUTION_METHODS; i++)
        if (c->methods[i].method == method && c->methods[i].until_ms > now_ms)
            return true;
    return false;
}

/* "... has reached the maximum allowed user limit of (4)"; else as many as there were without it.
 */
void caution_learn_limit(struct caution *c, const char *text, uint32_t channels, uint64_t now_ms)
{
    const char *number = strrchr(text, '(');
    unsigned long most = number ? strtoul(number + 1, NULL, 10) : 0;
    if (most == 0)
        most = channels > 1 ? channels - 1 : 1;
    c->channels = most < UINT32_MAX ? (uint32_t)most : UINT32_MAX;
    c->channels_until_ms = now_ms + CAUTION_LIMIT_MS;
    snprintf(c->channels_text, sizeof c->channels_text, "%s", text);
}

const char *caution_limit(const struct caution *c, uint32_t channels, uint64_t now_ms)
{
    return c->channels_until_ms > now_ms && channels >= c->channels ? c->channels_text : NULL;
}
