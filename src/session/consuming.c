#include "session/consuming.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "amqp/wire.h"
#include "base/memory.h"

#define SETTLED (UINT64_C(1) << 63)

enum { METHOD_BYTES = 4, TICKET_BYTES = 2, GET_NO_ACK = 1, CONSUME_NO_ACK = 2, BIT_MULTIPLE = 1 };

enum { TAGS_KEPT = 1024 };

void consuming_deinit(struct consuming *c)
{
    free(c->consumers);
    free(c->tags);
    free(c->held);
    *c = (struct consuming){0};
}

static struct cursor arguments(const uint8_t *payload, size_t len)
{
    struct cursor c = {.at = payload, .end = payload + len};
    cursor_take(&c, METHOD_BYTES);
    return c;
}

/* ---- consumers ---- */

static uint64_t read_name(struct cursor *c)
{
    size_t len = cursor_u8(c);
    const uint8_t *text = cursor_take(c, len);
    return text ? XXH3_64bits(text, len) : 0;
}

/* Behind the names of a basic.consume or a basic.get. */
static uint8_t bits_of(const struct span *call, unsigned names)
{
    struct cursor c = arguments(call->at, call->len);
    cursor_take(&c, TICKET_BYTES);
    for (unsigned i = 0; i < names; i++)
        cursor_skip_short_string(&c);
    return cursor_u8(&c);
}

static void add_consumer(struct consuming *c, uint64_t name, bool acks)
{
    if (c->consumer_count == c->consumer_capacity) {
        c->consumer_capacity = c->consumer_capacity ? c->consumer_capacity * 2 : 1;
        c->consumers = memory_grow(c->consumers, c->consumer_capacity, sizeof *c->consumers);
    }
    c->consumers[c->consumer_count++] = (struct consumer){.name = name, .acks = acks};
    c->acking += acks;
}

static struct consumer *find_consumer(const struct consuming *c, uint64_t name)
{
    for (uint32_t i = 0; i < c->consumer_count; i++)
        if (c->consumers[i].name == name)
            return &c->consumers[i];
    return NULL;
}

static void remove_consumer(struct consuming *c, uint64_t name)
{
    struct consumer *found = find_consumer(c, name);
    if (!found)
        return; /* both sides have cancelled it, or it never was */
    c->acking -= found->acks;
    *found = c->consumers[--c->consumer_count];
}

/* Looked up only where it matters: most channels have one kind alone. */
static bool is_to_be_settled(const struct consuming *c, uint64_t name)
{
    if (c->acking == 0 || c->acking == c->consumer_count)
        return c->acking > 0;
    const struct consumer *found = find_consumer(c, name);
    return !found || found->acks;
}

/* ---- deliveries ---- */

static void forget_settled(struct consuming *c)
{
    uint32_t kept = 0;
    for (uint32_t i = c->tag_first; i < c->tag_first + c->tag_count; i++)
        if (!(c->tags[i] & SETTLED))
            c->tags[kept++] = c->tags[i];
    c->tag_first = 0;
    c->tag_count = kept;
}

static void delivered(struct consuming *c, uint64_t tag)
{
    if (c->tag_first + c->tag_count == c->tag_capacity && c->unsettled <= c->tag_capacity / 2)
        forget_settled(c);
    if (c->tag_first + c->tag_count == c->tag_capacity) {
        c->tag_capacity = c->tag_capacity ? c->tag_capacity * 2 : 16;
        c->tags = memory_grow(c->tags, c->tag_capacity, sizeof *c->tags);
    }
    c->tags[c->tag_first + c->tag_count++] = tag & ~SETTLED;
    c->unsettled++;
}

/* The place of the first tag that is not below this one. */
static uint32_t place_of(const struct consuming *c, uint64_t tag)
{
    uint32_t low = c->tag_first, high = c->tag_first + c->tag_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if ((c->tags[middle] & ~SETTLED) < tag)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void settle_all(struct consuming *c)
{
    c->tag_first = c->tag_count = c->unsettled = 0;
    if (c->tag_capacity <= TAGS_KEPT)
        return;
    c->tag_capacity = TAGS_KEPT; /* a burst is over */
    c->tags = memory_grow(c->tags, c->tag_capacity, sizeof *c->tags);
}

static void settle_one(struct consuming *c, uint64_t tag)
{
    uint32_t at = place_of(c, tag);
    if (at == c->tag_first + c->tag_count || c->tags[at] != tag)
        return; /* RabbitMQ will say so */
    c->tags[at] |= SETTLED;
    if (--c->unsettled == 0)
        settle_all(c);
}

static void settle_up_to(struct consuming *c, uint64_t tag)
{
    uint32_t end = tag == 0 ? c->tag_first + c->tag_count : place_of(c, tag + 1);
    for (; c->tag_first < end; c->tag_first++, c->tag_count--)
        c->unsettled -= !(c->tags[c->tag_first] & SETTLED);
    if (c->unsettled == 0)
        settle_all(c);
}

static void settle(struct consuming *c, const struct settlement *s)
{
    if (s->kind == SETTLES_UP_TO)
        settle_up_to(c, s->tag);
    else
        settle_one(c, s->tag);
}

/* False: it settles nothing, or all. */
static bool read_settlement(amqp_method_number_t method, const struct frame *frame,
                            struct settlement *out)
{
    struct cursor at = arguments(frame->payload, frame->payload_len);
    if (method != AMQP_BASIC_ACK_METHOD && method != AMQP_BASIC_NACK_METHOD &&
        method != AMQP_BASIC_REJECT_METHOD)
        return false;
    *out = (struct settlement){.kind = SETTLES_ONE, .tag = cursor_u64(&at)};
    bool multiple = cursor_u8(&at) & BIT_MULTIPLE; /* that of a reject means requeue */
    if (multiple && method != AMQP_BASIC_REJECT_METHOD)
        out->kind = SETTLES_UP_TO;
    return true;
}

/* ---- transactions ---- */

static void hold(struct consuming *c, struct settlement settlement)
{
    if (c->held_count == c->held_capacity) {
        c->held_capacity = c->held_capacity ? c->held_capacity * 2 : 4;
        c->held = memory_grow(c->held, c->held_capacity, sizeof *c->held);
    }
    c->held[c->held_count++] = settlement;
}

/* Zero means all, but not what is delivered until the commit. */
static uint64_t up_to(const struct consuming *c, uint64_t tag)
{
    if (tag > 0 || c->tag_count == 0)
        return tag;
    return c->tags[c->tag_first + c->tag_count - 1] & ~SETTLED;
}

/* The one before says as much: a client may say "all" without end. */
static bool is_held(const struct consuming *c, const struct settlement *s)
{
    const struct settlement *last = c->held_count > 0 ? &c->held[c->held_count - 1] : NULL;
    return last && last->kind == SETTLES_UP_TO && s->tag <= last->tag;
}

static void roll_back(struct consuming *c)
{
    while (c->held_count > 0 && c->held[c->held_count - 1].kind != SETTLES_COMMIT)
        c->held_count--;
}

static void committed(struct consuming *c)
{
    uint32_t n = 0;
    for (; n < c->held_count && c->held[n].kind != SETTLES_COMMIT; n++)
        settle(c, &c->held[n]);
    if (n == c->held_count)
        return;
    c->held_count -= n + 1;
    memmove(c->held, c->held + n + 1, c->held_count * sizeof *c->held);
}

void consuming_commit(struct consuming *c)
{
    hold(c, (struct settlement){.kind = SETTLES_COMMIT});
}

/* ---- methods ---- */

void consuming_hear(struct consuming *c, amqp_method_number_t method, const struct frame *frame,
                    const struct span *call)
{
    struct cursor at = arguments(frame->payload, frame->payload_len);
    switch (method) {
    case AMQP_BASIC_CONSUME_OK_METHOD:
        add_consumer(c, read_name(&at), !call || !(bits_of(call, 2) & CONSUME_NO_ACK));
        return;
    case AMQP_BASIC_CANCEL_METHOD:
    case AMQP_BASIC_CANCEL_OK_METHOD:
        remove_consumer(c, read_name(&at));
        return;
    case AMQP_BASIC_DELIVER_METHOD: {
        uint64_t name = read_name(&at);
        if (is_to_be_settled(c, name))
            delivered(c, cursor_u64(&at));
        return;
    }
    case AMQP_BASIC_GET_OK_METHOD:
        if (!call || !(bits_of(call, 1) & GET_NO_ACK))
            delivered(c, cursor_u64(&at));
        return;
    case AMQP_BASIC_RECOVER_OK_METHOD:
        settle_all(c); /* they are in their queues again */
        return;
    case AMQP_TX_COMMIT_OK_METHOD:
        committed(c);
        return;
    default:
        return;
    }
}

static void say_in_transaction(struct consuming *c, amqp_method_number_t method,
                               const struct frame *frame)
{
    struct settlement settlement;
    if (method == AMQP_TX_COMMIT_METHOD) {
        consuming_commit(c);
    } else if (method == AMQP_TX_ROLLBACK_METHOD) {
        roll_back(c);
    } else if (read_settlement(method, frame, &settlement)) {
        settlement.tag = up_to(c, settlement.tag);
        if (settlement.tag > 0 && !is_held(c, &settlement))
            hold(c, settlement);
    }
}

void consuming_say(struct consuming *c, amqp_method_number_t method, const struct frame *frame,
                   bool in_transaction)
{
    struct settlement settlement;
    if (method == AMQP_BASIC_RECOVER_ASYNC_METHOD)
        settle_all(c); /* as basic.recover, and RabbitMQ does not say when */
    else if (in_transaction)
        say_in_transaction(c, method, frame);
    else if (read_settlement(method, frame, &settlement))
        settle(c, &settlement);
}
