#include "consumer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/wire.h"
#include "base/assert.h"
#include "history.h"

enum { AT_ONCE = 4 }; /* SETTLE_SOME: with one ack */

void consumer_deinit(struct consumer_channel *c)
{
    taken_deinit(&c->taken);
    free(c->body);
    c->body = NULL;
}

const char *consumer_next_tag(struct consumer_channel *c, unsigned client)
{
    static char tag[24];
    snprintf(tag, sizeof tag, "c%u.%u.%u", client, c->number, ++c->tags);
    c->consumers++;
    return tag;
}

/* ---- settling ---- */

static void ack(struct consumer_channel *c, struct talker *t, uint64_t tag, bool multiple)
{
    amqp_basic_ack_t m = {.delivery_tag = tag, .multiple = multiple};
    taken_say(&c->taken, tag, multiple);
    talker_say(t, c->number, AMQP_BASIC_ACK_METHOD, &m);
}

static void nack(struct consumer_channel *c, struct talker *t, uint64_t tag)
{
    amqp_basic_nack_t m = {.delivery_tag = tag, .requeue = 1};
    taken_say(&c->taken, tag, false);
    talker_say(t, c->number, AMQP_BASIC_NACK_METHOD, &m);
}

static void reject(struct consumer_channel *c, struct talker *t, uint64_t tag)
{
    amqp_basic_reject_t m = {.delivery_tag = tag};
    taken_say(&c->taken, tag, false);
    talker_say(t, c->number, AMQP_BASIC_REJECT_METHOD, &m);
}

static void settle_mixed(struct consumer_channel *c, struct talker *t, uint64_t tag)
{
    if (tag % 5 == 0)
        nack(c, t, tag);
    else if (tag % 5 == 1)
        reject(c, t, tag);
    else
        ack(c, t, tag, false);
}

void consumer_settle_all(struct consumer_channel *c, struct talker *t)
{
    uint64_t newest = taken_tag(&c->taken, true);
    if (newest > 0)
        ack(c, t, newest, true);
}

static void settle(struct consumer_channel *c, struct talker *t)
{
    uint64_t oldest = taken_tag(&c->taken, false);
    if (oldest == 0)
        return;
    if (c->settling == SETTLE_EACH)
        ack(c, t, oldest, false);
    else if (c->settling == SETTLE_MIXED)
        settle_mixed(c, t, oldest);
    else if (c->settling == SETTLE_SOME && c->taken.open_count == AT_ONCE)
        consumer_settle_all(c, t);
}

void consumer_close(struct consumer_channel *c)
{
    c->settling = SETTLE_LATE;
    taken_ask(&c->taken);
}

/* ---- what comes ---- */

static void begin(struct consumer_channel *c, amqp_bytes_t consumer, uint64_t tag)
{
    CHECK(!c->is_inside, "a delivery begins inside of another");
    c->is_inside = true;
    c->tag = tag;
    c->size = c->len = 0;
    free(c->body);
    c->body = NULL;
    snprintf(c->consumer, sizeof c->consumer, "%.*s", (int)consumer.len,
             (const char *)consumer.bytes);
}

static bool take_method(struct consumer_channel *c, const struct frame *frame)
{
    struct method_arena arena;
    amqp_method_number_t method;
    void *fields;
    bool is_ours = true;
    method_arena_init(&arena);
    CHECK(method_decode_reply(&arena, frame->payload, frame->payload_len, &method, &fields),
          "a client gets a malformed method");
    switch (method) {
    case AMQP_BASIC_DELIVER_METHOD:
        begin(c, ((amqp_basic_deliver_t *)fields)->consumer_tag,
              ((amqp_basic_deliver_t *)fields)->delivery_tag);
        break;
    case AMQP_BASIC_GET_OK_METHOD:
        begin(c, bytes_of(""), ((amqp_basic_get_ok_t *)fields)->delivery_tag);
        break;
    case AMQP_BASIC_CANCEL_METHOD:
    case AMQP_BASIC_CANCEL_OK_METHOD:
        if (c->consumers > 0)
            c->consumers--;
        break;
    default:
        is_ours = false;
    }
    method_arena_deinit(&arena);
    return is_ours;
}

static void take_content(struct consumer_channel *c, const struct frame *frame)
{
    uint8_t wanted[LEDGER_HEADER_BYTES];
    if (frame->type == FRAME_HEADER) {
        CHECK(!c->body, "a delivery has two headers");
        c->size = wire_get64(frame->payload + 4);
        delivery_write_header(c->size, wanted);
        CHECK(frame->payload_len == sizeof wanted &&
                  memcmp(frame->payload, wanted, sizeof wanted) == 0,
              "the properties of a delivery were changed");
        c->body = malloc(c->size + 1);
        ENSURE(c->body);
        return;
    }
    CHECK(c->body && frame->payload_len <= c->size - c->len, "a delivery has more than its size");
    memcpy(c->body + c->len, frame->payload, frame->payload_len);
    c->len += frame->payload_len;
}

bool consumer_hear(struct consumer_channel *c, struct talker *t, const struct frame *frame)
{
    if (frame->type == FRAME_METHOD)
        return take_method(c, frame);
    if (!c->is_inside)
        return false;
    take_content(c, frame);
    if (!c->body || c->len < c->size)
        return true;
    c->is_inside = false;
    c->taken_count++;
    taken_add(&c->taken, c->login, c->consumer, c->tag, c->body, c->size);
    settle(c, t);
    return true;
}
