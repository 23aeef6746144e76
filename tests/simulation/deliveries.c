#include "deliveries.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/wire.h"
#include "base/assert.h"
#include "base/memory.h"
#include "history.h"
#include "tally.h"

enum { CONSUMER_BYTES = 24 };

struct delivery {
    uint64_t channel, tag;
    unsigned login;
    char consumer[CONSUMER_BYTES];
    bool is_settled, is_lost, is_taken;
    bool is_answered; /* what its reader has said of it */
};

static struct {
    struct delivery *all; /* from 1 */
    uint32_t count, capacity;
} deliveries;

void deliveries_begin(void)
{
    ENSURE(deliveries.count == 0);
}

void deliveries_settle(void)
{
    for (uint32_t i = 1; i <= deliveries.count; i++) {
        const struct delivery *d = &deliveries.all[i];
        CHECK(d->is_settled || d->is_lost || !d->is_answered,
              "delivery %u was settled, and then its channel closed or committed, and RabbitMQ "
              "never heard it",
              i);
    }
}

void deliveries_end(void)
{
    free(deliveries.all);
    deliveries.all = NULL;
    deliveries.count = deliveries.capacity = 0;
}

static struct delivery *at(uint32_t number)
{
    CHECK(number > 0 && number <= deliveries.count, "delivery %u: RabbitMQ never sent it", number);
    return &deliveries.all[number];
}

uint32_t delivery_new(uint64_t channel, uint64_t tag, unsigned login, const char *consumer,
                      bool is_settled)
{
    if (deliveries.count + 1 >= deliveries.capacity) {
        deliveries.capacity = deliveries.capacity * 2 + 64;
        deliveries.all = memory_grow(deliveries.all, deliveries.capacity, sizeof *deliveries.all);
    }
    struct delivery *d = &deliveries.all[++deliveries.count];
    *d =
        (struct delivery){.channel = channel, .tag = tag, .login = login, .is_settled = is_settled};
    snprintf(d->consumer, sizeof d->consumer, "%s", consumer);
    return deliveries.count;
}

void delivery_settled(uint32_t number)
{
    at(number)->is_settled = true;
    tally_add(TALLY_SETTLED);
}

void delivery_lost(uint32_t number)
{
    at(number)->is_lost = true;
}

void delivery_write_body(uint32_t number, uint8_t *body, uint32_t size)
{
    ledger_write_body(number, body, size);
}

void delivery_write_header(uint64_t body_size, uint8_t header[LEDGER_HEADER_BYTES])
{
    enum { CLASS_BASIC = 60, HAS_DELIVERY_MODE = 0x1000, PERSISTENT = 2 };
    memset(header, 0, LEDGER_HEADER_BYTES);
    wire_put16(header, CLASS_BASIC);
    wire_put64(header + 4, body_size);
    wire_put16(header + 12, HAS_DELIVERY_MODE);
    header[14] = PERSISTENT;
}

/* ---- a client's side ---- */

void taken_deinit(struct taken *t)
{
    free(t->open);
    free(t->said);
    *t = (struct taken){0};
}

static void push(uint32_t **list, unsigned *count, unsigned *capacity, uint32_t number)
{
    if (*count == *capacity) {
        *capacity = *capacity * 2 + 16;
        *list = memory_grow(*list, *capacity, sizeof **list);
    }
    (*list)[(*count)++] = number;
}

void taken_add(struct taken *t, unsigned login, const char *consumer, uint64_t tag,
               const uint8_t *body, uint64_t size)
{
    uint32_t number = ledger_read_body(body, size);
    struct delivery *d = at(number);
    CHECK(d->login == login, "P6: delivery %u to %s comes to %s", number, logins[d->login].user,
          logins[login].user);
    CHECK(strcmp(d->consumer, consumer) == 0, "delivery %u to \"%s\" comes to \"%s\"", number,
          d->consumer, consumer);
    CHECK(d->tag == tag, "delivery %u has the tag %llu and comes as %llu", number,
          (unsigned long long)d->tag, (unsigned long long)tag);
    CHECK(!d->is_taken, "delivery %u comes twice", number);
    CHECK(d->channel == t->channel ? tag == t->tag + 1 : d->channel > t->channel && tag == 1,
          "delivery %u with the tag %llu comes behind %llu", number, (unsigned long long)tag,
          (unsigned long long)t->tag);
    d->is_taken = true;
    t->channel = d->channel;
    t->tag = tag;
    tally_add(TALLY_TAKEN);
    if (!d->is_settled)
        push(&t->open, &t->open_count, &t->open_capacity, number);
}

uint64_t taken_tag(const struct taken *t, bool newest)
{
    return t->open_count > 0 ? at(t->open[newest ? t->open_count - 1 : 0])->tag : 0;
}

void taken_say(struct taken *t, uint64_t tag, bool multiple)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < t->open_count; i++) {
        uint64_t other = at(t->open[i])->tag;
        if (other == tag || (multiple && other < tag))
            push(&t->said, &t->said_count, &t->said_capacity, t->open[i]);
        else
            t->open[kept++] = t->open[i];
    }
    t->open_count = kept;
}

void taken_ask(struct taken *t)
{
    t->asked = t->said_count;
}

void taken_arrived(struct taken *t)
{
    for (unsigned i = 0; i < t->asked; i++)
        at(t->said[i])->is_answered = true;
    taken_is_void(t);
}

void taken_is_void(struct taken *t)
{
    t->said_count -= t->asked;
    if (t->said_count > 0)
        memmove(t->said, t->said + t->asked, t->said_count * sizeof *t->said);
    t->asked = 0;
}
