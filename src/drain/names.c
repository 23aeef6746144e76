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

/* Names may hold anything: the vhost's is known, and all that is before it is the name. */
static bool note_missing(struct names *names, uint32_t kind, const char *before, const char *text,
                         const char *vhost)
{
    static const char in_vhost[] = "' in vhost '";
    size_t begin = strlen(before), vhost_len = strlen(vhost), len = strlen(text);
    size_t behind = sizeof in_vhost - 1 + vhost_len + 1;
    if (len < begin + behind || strncmp(text, before, begin) != 0)
        return false;
    const char *end = text + len - behind, *at = end + sizeof in_vhost - 1;
    if (memcmp(end, in_vhost, sizeof in_vhost - 1) != 0 || memcmp(at, vhost, vhost_len) != 0)
        return false;
    names_note_gone(names,
                    names_hash(kind, (const uint8_t *)text + begin, (size_t)(end - text) - begin));
    return true;
}

void names_note_missing(struct names *names, const char *text, const char *vhost)
{
    if (!note_missing(names, AMQP_QUEUE_DECLARE_METHOD, "NOT_FOUND - no queue '", text, vhost))
        note_missing(names, AMQP_EXCHANGE_DECLARE_METHOD, "NOT_FOUND - no exchange '", text, vhost);
}

/* Queues of that prefix are those that RabbitMQ has named, each of them some client's. */
static bool is_built_in(uint32_t kind, const uint8_t *name, size_t len)
{
    return kind == AMQP_EXCHANGE_DECLARE_METHOD &&
           (len == 0 || (len >= 4 && memcmp(name, "amq.", 4) == 0));
}

/* What is built in is always there; of too many names nothing is known any more. */
bool names_has_seen(const struct names *names, uint32_t kind, const uint8_t *name, size_t len)
{
    return is_built_in(kind, name, len) || declared_count(&names->seen) >= NAMES_MAX ||
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
