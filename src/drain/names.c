#include "drain/names.h"

#include <string.h>

#include "amqp/method.h"
#include "amqp/wire.h"

void names_clear(struct names *names)
{
    declared_clear(&names->seen);
    declared_clear(&names->promised);
}

uint64_t names_hash(uint32_t kind, const uint8_t *name, size_t len)
{
    uint8_t bytes[4 + 255];
    wire_put32(bytes, kind);
    if (len > 255)
        len = 255;
    if (len > 0)
        memcpy(bytes + 4, name, len);
    return declared_hash(bytes, 4 + len);
}

/* Both begin with two reserved octets and the name as a short string (1.6.2.1, 1.7.2.1). */
uint64_t names_of_declaration(const uint8_t *payload, size_t len)
{
    enum { NAME_AT = 6 }; /* behind class and method */
    uint32_t method = method_number(payload, len);
    bool declares = method == AMQP_QUEUE_DECLARE_METHOD || method == AMQP_EXCHANGE_DECLARE_METHOD;
    if (!declares || len <= NAME_AT || len - NAME_AT - 1 < payload[NAME_AT])
        return 0;
    return names_hash(method, payload + NAME_AT + 1, payload[NAME_AT]);
}

void names_note_seen(struct names *names, uint64_t name)
{
    if (declared_count(&names->seen) < NAMES_MAX)
        declared_add(&names->seen, name);
}

/* One that is promised will be there. Of too many names nothing is known. */
void names_note_gone(struct names *names, uint64_t name)
{
    if (declared_count(&names->seen) < NAMES_MAX && !declared_has(&names->promised, name))
        declared_remove(&names->seen, name);
}

/* What is built in is always there; of too many names nothing is known any more. */
bool names_has_seen(const struct names *names, uint32_t kind, const uint8_t *name, size_t len)
{
    return len == 0 || (len >= 4 && memcmp(name, "amq.", 4) == 0) ||
           declared_count(&names->seen) >= NAMES_MAX ||
           declared_has(&names->seen, names_hash(kind, name, len));
}

bool names_is_sure(const struct names *names, uint32_t kind, const uint8_t *name, size_t len)
{
    return names_has_seen(names, kind, name, len) && !names_is_promised(names, kind, name, len);
}

void names_promise(struct names *names, uint32_t kind, const uint8_t *name, size_t len,
                   bool transient)
{
    uint64_t hash = names_hash(kind, name, len);
    bool is_there = !transient && names_is_sure(names, kind, name, len);
    names_note_seen(names, hash);
    if (!is_there && declared_count(&names->promised) < NAMES_MAX)
        declared_add(&names->promised, hash);
}

bool names_is_promised(const struct names *names, uint32_t kind, const uint8_t *name, size_t len)
{
    return declared_count(&names->promised) > 0 &&
           declared_has(&names->promised, names_hash(kind, name, len));
}

bool names_end_promise(struct names *names, uint64_t name)
{
    if (!name || !declared_has(&names->promised, name))
        return false;
    declared_remove(&names->promised, name);
    return true;
}

void names_forget_promises(struct names *names)
{
    declared_clear(&names->promised);
}
