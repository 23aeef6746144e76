/* What RabbitMQ sends: to consumers, and to those who ask with basic.get. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/memory.h"
#include "client_script.h"
#include "deliveries.h"
#include "history.h"
#include "rabbit_inside.h"
#include "tally.h"

enum {
    MESSAGES_MAX = 40,     /* for one consumer, until one is sent back */
    OUT_BYTES_MAX = 65536, /* then it waits until its connection takes more */
    PAUSE_US = 20000,
};

static bool is_able(const struct rabbit_channel *ch, const struct rabbit_consumer *who)
{
    return !ch->is_closing && who->left > 0 &&
           (!who->acks || ch->prefetch == 0 || who->unsettled < ch->prefetch);
}

static void note_open(struct rabbit_channel *ch, uint32_t number, uint64_t tag, int consumer)
{
    if (ch->open_count == ch->open_capacity) {
        ch->open_capacity = ch->open_capacity * 2 + 16;
        ch->open = memory_grow(ch->open, ch->open_capacity, sizeof *ch->open);
    }
    ch->open[ch->open_count++] = (struct rabbit_delivery){number, tag, consumer};
}

static void say_message(struct rabbit_connection *c, uint16_t number, uint32_t delivery)
{
    uint32_t size = (uint32_t)prng_between(&c->prng, DELIVERY_BODY_MIN,
                                           prng_percent(&c->prng, 90) ? 400 : 30000);
    uint8_t header[LEDGER_HEADER_BYTES], *body = malloc(size);
    ENSURE(body);
    delivery_write_body(delivery, body, size);
    delivery_write_header(size, header);
    talker_say_content(&c->talker, number, header, sizeof header, body, size, c->frame_max);
    free(body);
}

static void deliver_one(struct rabbit_connection *c, uint16_t number, int consumer)
{
    struct rabbit_channel *ch = c->channels[number];
    struct rabbit_consumer *who = &ch->consumers[consumer];
    uint32_t delivery =
        delivery_new(ch->serial, ++ch->delivery_tag, c->login, who->tag, !who->acks);
    amqp_basic_deliver_t m = {.consumer_tag = bytes_of(who->tag),
                              .delivery_tag = ch->delivery_tag,
                              .exchange = bytes_of(""),
                              .routing_key = bytes_of("q0")};
    who->left--;
    tally_add(TALLY_DELIVERED);
    if (who->acks) {
        who->unsettled++;
        note_open(ch, delivery, ch->delivery_tag, consumer);
    }
    history_note("rabbit: delivery %u on channel %u, number %llu, to \"%s\"", delivery, number,
                 (unsigned long long)ch->delivery_tag, who->tag);
    talker_say(&c->talker, number, AMQP_BASIC_DELIVER_METHOD, &m);
    say_message(c, number, delivery);
}

static void deliver(void *arg)
{
    struct rabbit_connection *c = arg;
    for (uint16_t n = 1; n <= c->highest; n++)
        for (unsigned i = 0; c->channels[n] && i < c->channels[n]->consumer_count; i++)
            if (c->talker.end && c->talker.out_len < OUT_BYTES_MAX &&
                is_able(c->channels[n], &c->channels[n]->consumers[i]) &&
                prng_percent(&c->prng, 60))
                deliver_one(c, n, (int)i);
    rabbit_plan_deliveries(c);
}

void rabbit_plan_deliveries(struct rabbit_connection *c)
{
    bool any = false;
    for (uint16_t n = 1; n <= c->highest; n++)
        for (unsigned i = 0; c->channels[n] && i < c->channels[n]->consumer_count; i++)
            any = any || is_able(c->channels[n], &c->channels[n]->consumers[i]);
    if (!any || !c->talker.end || rabbit_is_frozen(c) || c->is_closing)
        agenda_cancel(&c->deliver);
    else if (!agenda_has(&c->deliver))
        agenda_in(&c->deliver, prng_percent(&c->prng, 70) ? 10 : prng_below(&c->prng, PAUSE_US),
                  deliver, c);
}

void rabbit_qos(struct rabbit_channel *ch, const amqp_basic_qos_t *m)
{
    if (m->global)
        ch->all_prefetch = m->prefetch_count;
    else
        ch->prefetch = m->prefetch_count;
}

/* Who sets limits as high as these has set both. */
static void check_limits(const struct rabbit_channel *ch)
{
    bool is_hasty = ch->prefetch >= HASTY_LIMIT || ch->all_prefetch >= HASTY_LIMIT;
    CHECK(!is_hasty || ch->all_prefetch == ch->prefetch + HASTY_LIMITS_APART,
          "of two limits of a channel %u and %u have arrived", ch->prefetch, ch->all_prefetch);
}

void rabbit_consume(struct rabbit_connection *c, uint16_t number, const amqp_basic_consume_t *m)
{
    struct rabbit_channel *ch = c->channels[number];
    check_limits(ch);
    if (m->consumer_tag.len == 0 || ch->consumer_count == RABBIT_CONSUMERS_MAX)
        return; /* nobody wants anything */
    struct rabbit_consumer *who = &ch->consumers[ch->consumer_count];
    *who = (struct rabbit_consumer){.acks = !m->no_ack,
                                    .left = (unsigned)prng_between(&c->prng, 1, MESSAGES_MAX)};
    snprintf(who->tag, sizeof who->tag, "%.*s", (int)m->consumer_tag.len,
             (const char *)m->consumer_tag.bytes);
    for (unsigned i = 0; i < ch->consumer_count; i++)
        CHECK(strcmp(ch->consumers[i].tag, who->tag) != 0, "P7: a consumer tag that is in use");
    ch->consumer_count++;
    rabbit_plan_deliveries(c);
}

/* It keeps its place: what it was sent is still to be settled. */
static void end_consumer(struct rabbit_consumer *who)
{
    who->left = 0;
    who->tag[0] = 0;
    tally_add(TALLY_CANCELLED);
}

void rabbit_cancel(struct rabbit_connection *c, uint16_t number, amqp_bytes_t tag)
{
    struct rabbit_channel *ch = c->channels[number];
    for (unsigned i = 0; i < ch->consumer_count; i++)
        if (strlen(ch->consumers[i].tag) == tag.len &&
            memcmp(ch->consumers[i].tag, tag.bytes, tag.len) == 0 && tag.len > 0)
            end_consumer(&ch->consumers[i]);
    amqp_basic_cancel_ok_t ok = {.consumer_tag = tag};
    talker_say(&c->talker, number, AMQP_BASIC_CANCEL_OK_METHOD, &ok);
}

static void cancel_all_of(struct rabbit_connection *c, uint16_t number)
{
    struct rabbit_channel *ch = c->channels[number];
    for (unsigned i = 0; i < ch->consumer_count; i++) {
        amqp_basic_cancel_t m = {.consumer_tag = bytes_of(ch->consumers[i].tag), .nowait = 1};
        if (m.consumer_tag.len == 0)
            continue;
        history_note("rabbit: cancels \"%s\"", ch->consumers[i].tag);
        talker_say(&c->talker, number, AMQP_BASIC_CANCEL_METHOD, &m);
        end_consumer(&ch->consumers[i]);
    }
}

void rabbit_cancel_all(void)
{
    for (struct rabbit_connection *c = rabbit.connections; c; c = c->next)
        for (uint16_t n = 1; n <= c->highest && !c->is_closing && !rabbit_is_frozen(c); n++)
            if (c->channels[n] && !c->channels[n]->is_closing)
                cancel_all_of(c, n);
}

void rabbit_get(struct rabbit_connection *c, uint16_t number, const amqp_basic_get_t *m)
{
    struct rabbit_channel *ch = c->channels[number];
    if (prng_percent(&c->prng, 30)) {
        amqp_basic_get_empty_t empty = {0};
        talker_say(&c->talker, number, AMQP_BASIC_GET_EMPTY_METHOD, &empty);
        return;
    }
    uint32_t delivery = delivery_new(ch->serial, ++ch->delivery_tag, c->login, "", m->no_ack);
    amqp_basic_get_ok_t ok = {
        .delivery_tag = ch->delivery_tag, .exchange = bytes_of(""), .routing_key = bytes_of("q0")};
    if (!m->no_ack)
        note_open(ch, delivery, ch->delivery_tag, -1);
    tally_add(TALLY_GOT);
    talker_say(&c->talker, number, AMQP_BASIC_GET_OK_METHOD, &ok);
    say_message(c, number, delivery);
}

/* ---- what is said of them ---- */

static void settle(struct rabbit_connection *c, struct rabbit_channel *ch, uint64_t tag,
                   bool multiple)
{
    history_note("rabbit: %llu%s is settled", (unsigned long long)tag,
                 multiple ? " and before" : "");
    unsigned kept = 0;
    for (unsigned i = 0; i < ch->open_count; i++) {
        const struct rabbit_delivery *d = &ch->open[i];
        if (d->tag != tag && !(multiple && (d->tag < tag || tag == 0))) {
            ch->open[kept++] = *d;
            continue;
        }
        delivery_settled(d->number);
        if (d->consumer >= 0)
            ch->consumers[d->consumer].unsettled--;
    }
    CHECK(kept < ch->open_count || (multiple && tag == 0),
          "P7: %llu is settled, which is not open on that channel", (unsigned long long)tag);
    ch->open_count = kept;
    rabbit_plan_deliveries(c);
}

void rabbit_settle(struct rabbit_connection *c, uint16_t number, uint64_t tag, bool multiple)
{
    struct rabbit_channel *ch = c->channels[number];
    if (!ch->is_transactional) {
        settle(c, ch, tag, multiple);
        return;
    }
    if (ch->said_count == ch->said_capacity) {
        ch->said_capacity = ch->said_capacity * 2 + 16;
        ch->said = memory_grow(ch->said, ch->said_capacity, sizeof *ch->said);
    }
    ch->said[ch->said_count++] = (struct rabbit_settling){tag, multiple};
}

void rabbit_commit_settled(struct rabbit_connection *c, struct rabbit_channel *ch, bool keeps)
{
    for (unsigned i = 0; i < ch->said_count && keeps; i++)
        settle(c, ch, ch->said[i].tag, ch->said[i].multiple);
    ch->said_count = 0;
}

void rabbit_lose_deliveries(struct rabbit_channel *ch, bool is_left)
{
    for (unsigned i = 0; i < ch->open_count && !is_left; i++)
        delivery_lost(ch->open[i].number);
    ch->open_count = 0;
}
