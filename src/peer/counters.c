#include "peer/counters.h"

#include <stdbool.h>

static bool add(struct counters *c, uint16_t code)
{
    for (unsigned i = 0; i < c->rejected_codes; i++) {
        if (c->rejected[i].code == code) {
            c->rejected[i].count++;
            return true;
        }
    }
    return false;
}

void counters_add_rejected(struct counters *c, uint16_t code)
{
    if (add(c, code))
        return;
    if (c->rejected_codes >= COUNTED_CODES_MAX - 1) {
        code = COUNTED_CODE_OTHER;
        if (add(c, code))
            return;
    }
    c->rejected[c->rejected_codes++] = (struct counted_code){code, 1};
}
