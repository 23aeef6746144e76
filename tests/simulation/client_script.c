#include "client_script.h"

enum { FLOOD_MESSAGES = 100, FLOOD_STAYS_US = 15000000 };

static struct act *add(struct script *s, enum act_kind kind, uint16_t channel)
{
    if (s->count == SCRIPT_MAX)
        s->count--; /* no script is that long but for what it publishes */
    struct act *act = &s->acts[s->count++];
    *act = (struct act){.kind = kind, .channel = channel};
    return act;
}

static uint32_t body_size(struct prng *p)
{
    if (prng_percent(p, 90))
        return (uint32_t)prng_between(p, LEDGER_BODY_MIN, 300);
    return (uint32_t)prng_between(p, LEDGER_BODY_MIN, prng_percent(p, 80) ? 6000 : 60000);
}

static enum destination any_destination(struct prng *p)
{
    return prng_percent(p, 90) ? prng_below(p, DEST_QUEUES) : prng_below(p, DEST_COUNT);
}

/* Some to one destination, or each to any. */
static void publish(struct script *s, struct prng *p, uint16_t channel, uint64_t count)
{
    bool same = prng_percent(p, 50), persistent = prng_percent(p, 80);
    bool hurries = prng_percent(p, 70), mandatory = prng_percent(p, 15);
    enum destination d = any_destination(p);
    for (uint64_t i = 0; i < count; i++) {
        struct act *act = add(s, ACT_PUBLISH, channel);
        act->destination = same ? d : any_destination(p);
        act->persistent = prng_percent(p, 90) ? persistent : !persistent;
        act->mandatory = mandatory;
        act->size = body_size(p);
        act->pause_us = hurries ? 0 : prng_below(p, 300000);
    }
}

static void write_stream(struct script *s, struct prng *p, enum act_kind mode)
{
    uint16_t channels = (uint16_t)prng_between(p, 1, 3);
    for (uint16_t c = 1; c <= channels; c++) {
        add(s, ACT_OPEN, c);
        if (mode != ACT_PUBLISH)
            add(s, mode, c);
    }
    for (uint64_t rounds = prng_between(p, 1, 6); rounds > 0; rounds--) {
        uint16_t c = (uint16_t)prng_between(p, 1, channels);
        publish(s, p, c, prng_between(p, 1, 14));
        if (mode == ACT_TX)
            add(s, prng_percent(p, 80) ? ACT_COMMIT : ACT_ROLLBACK, c);
        else if (mode == ACT_CONFIRM && prng_percent(p, 70))
            add(s, ACT_AWAIT, c);
        if (prng_percent(p, 40))
            add(s, ACT_PAUSE, c)->pause_us = prng_below(p, 4000000);
    }
    for (uint16_t c = 1; c <= channels; c++) {
        if (mode == ACT_CONFIRM && prng_percent(p, 80))
            add(s, ACT_AWAIT, c);
        if (prng_percent(p, 50))
            add(s, ACT_CLOSE_CHANNEL, c);
    }
}

/* The least that RabbitMQ has for each consumer is one. */
static void read_some(struct script *s, struct prng *p, uint16_t c, bool is_transactional)
{
    bool no_ack = prng_percent(p, 20);
    if (prng_percent(p, 60))
        add(s, ACT_QOS, c)->count = (unsigned)prng_between(p, 1, 12);
    for (uint64_t readers = prng_between(p, 1, 2); readers > 0; readers--)
        add(s, ACT_READ, c)->no_ack = no_ack;
    for (uint64_t rounds = prng_between(p, 1, 4); rounds > 0; rounds--) {
        if (prng_percent(p, 40))
            publish(s, p, c, prng_between(p, 1, 5));
        if (prng_percent(p, 60))
            add(s, ACT_TAKE, c)->count = 1;
        if (prng_percent(p, 40))
            add(s, ACT_PAUSE, c)->pause_us = prng_below(p, 2000000);
        if (prng_percent(p, 60))
            add(s, ACT_SETTLE, c);
        if (is_transactional)
            add(s, prng_percent(p, 80) ? ACT_COMMIT : ACT_ROLLBACK, c);
        if (prng_percent(p, 20))
            add(s, ACT_CANCEL, c);
    }
}

static void write_worker(struct script *s, struct prng *p)
{
    uint16_t channels = (uint16_t)prng_between(p, 1, 3);
    s->reads = true;
    s->settling = prng_below(p, SETTLINGS);
    for (uint16_t c = 1; c <= channels; c++) {
        uint64_t mode = prng_below(p, 100);
        add(s, ACT_OPEN, c);
        if (mode < 40)
            add(s, ACT_CONFIRM, c);
        else if (mode < 60)
            add(s, ACT_TX, c);
        if (prng_percent(p, 30))
            publish(s, p, c, prng_between(p, 1, 3));
        for (uint64_t gets = prng_percent(p, 40) ? prng_between(p, 1, 4) : 0; gets > 0; gets--)
            add(s, ACT_GET, c)->no_ack = prng_percent(p, 20);
        if (prng_percent(p, 80))
            read_some(s, p, c, mode >= 40 && mode < 60);
        if (mode < 40 && prng_percent(p, 70))
            add(s, ACT_AWAIT, c);
        if (prng_percent(p, 40))
            add(s, ACT_CLOSE_CHANNEL, c);
    }
}

static void write_unruly(struct script *s, struct prng *p)
{
    s->pipelines = true;
    add(s, ACT_OPEN, 1);
    if (prng_percent(p, 40))
        add(s, ACT_CONFIRM, 1);
    publish(s, p, 1, prng_between(p, 0, 4));
    for (uint64_t offences = prng_between(p, 1, 3); offences > 0; offences--) {
        add(s, ACT_OFFEND, 1)->pause_us = prng_below(p, 200000);
        publish(s, p, 1, prng_between(p, 0, 2));
    }
    add(s, ACT_PAUSE, 0)->pause_us = prng_below(p, 4000000);
    add(s, ACT_VANISH, 0);
}

static void publish_to(struct script *s, struct prng *p, uint16_t c, enum destination d)
{
    struct act *act = add(s, ACT_PUBLISH, c);
    act->destination = d;
    act->persistent = true;
    act->mandatory = d == DEST_NOWHERE;
    act->size = body_size(p);
}

/* One channel of a client that hurries. RabbitMQ is told of both of its limits, see
 * rabbit_consume.c. */
static void write_haste(struct script *s, struct prng *p, uint16_t c)
{
    enum { CHANGES_TO_TX = 2 }; /* who has consumed may not, see docs/clients.md */
    uint64_t own = prng_below(p, 100), what = prng_below(p, 5);
    add(s, ACT_OPEN, c);
    if (own < 30 && what != CHANGES_TO_TX)
        add(s, ACT_GET, c);
    else if (own < 45 && what != CHANGES_TO_TX)
        add(s, ACT_CONSUME, c);
    switch (what) {
    case 0: /* an exception that comes when it has gone on */
        publish(s, p, c, prng_below(p, 2));
        add(s, ACT_BIND_TO_NOTHING, c);
        break;
    case 1:
        publish(s, p, c, prng_below(p, 3));
        publish_to(s, p, c, DEST_MISSING);
        break;
    case CHANGES_TO_TX: /* one transaction behind the other */
        publish(s, p, c, prng_below(p, 2));
        add(s, ACT_TX, c);
        for (uint64_t rounds = prng_between(p, 1, 5); rounds > 0; rounds--) {
            publish(s, p, c, prng_between(p, 0, 3));
            add(s, prng_percent(p, 80) ? ACT_COMMIT : ACT_ROLLBACK, c);
        }
        break;
    case 3: /* both kinds of limits, before anybody reads */
        add(s, ACT_QOS, c)->count = (unsigned)prng_between(p, HASTY_LIMIT, HASTY_LIMIT + 20);
        add(s, ACT_QOS, c)->is_global = true;
        s->acts[s->count - 1].count = s->acts[s->count - 2].count + HASTY_LIMITS_APART;
        publish(s, p, c, prng_below(p, 2));
        add(s, ACT_CONSUME, c);
        break;
    default: /* questions, while something is returned */
        for (uint64_t rounds = prng_between(p, 1, 4); rounds > 0; rounds--) {
            publish_to(s, p, c, DEST_NOWHERE);
            for (uint64_t i = prng_between(p, 1, 3); i > 0; i--) {
                struct act *act = add(s, ACT_QOS, c);
                act->count = 1;
                act->pause_us = prng_below(p, 2000);
            }
        }
    }
    if (prng_percent(p, 70))
        add(s, ACT_CLOSE_CHANNEL, c);
}

static void write_hasty(struct script *s, struct prng *p)
{
    s->pipelines = s->is_hasty = true;
    for (uint16_t c = 1; c <= 3; c++)
        write_haste(s, p, c);
}

static void write_one(struct script *s, enum client_kind kind, struct prng *p)
{
    switch (kind) {
    case CLIENT_STREAM:
        write_stream(s, p, ACT_PUBLISH);
        break;
    case CLIENT_CONFIRMING:
        write_stream(s, p, ACT_CONFIRM);
        break;
    case CLIENT_TRANSACTION:
        write_stream(s, p, ACT_TX);
        break;
    case CLIENT_DECLARING:
        add(s, ACT_OPEN, 1);
        add(s, ACT_DECLARE, 1);
        publish(s, p, 1, prng_between(p, 1, 3));
        if (prng_percent(p, 50))
            add(s, ACT_CLOSE_CHANNEL, 1);
        break;
    case CLIENT_CONSUMING:
        add(s, ACT_OPEN, 1);
        add(s, ACT_CONSUME, 1);
        publish(s, p, 1, prng_between(p, 0, 4));
        add(s, ACT_PAUSE, 1)->pause_us = prng_below(p, 5000000);
        break;
    case CLIENT_UNRULY:
        write_unruly(s, p);
        break;
    case CLIENT_WORKER:
        write_worker(s, p);
        break;
    case CLIENT_HASTY:
        write_hasty(s, p);
        break;
    case CLIENT_FLOOD:
        s->pipelines = true;
        add(s, ACT_OPEN, 1);
        for (unsigned i = 0; i < FLOOD_MESSAGES; i++)
            publish_to(s, p, 1, 0);
        add(s, ACT_PAUSE, 1)->pause_us = FLOOD_STAYS_US;
        add(s, ACT_VANISH, 0);
        break;
    case CLIENT_PROBE:
        add(s, ACT_OPEN, 1);
        add(s, ACT_CONFIRM, 1);
        publish_to(s, p, 1, 0);
        add(s, ACT_AWAIT, 1);
        break;
    default:
        add(s, ACT_OPEN, 1);
        publish(s, p, 1, 1);
        if (prng_percent(p, 30))
            add(s, ACT_CLOSE_CHANNEL, 1);
    }
}

void script_write(struct script *s, enum client_kind kind, struct prng *p)
{
    *s = (struct script){.login = (unsigned)prng_below(p, LOGINS),
                         .is_stranger = kind == CLIENT_STRANGER || kind == CLIENT_GUESSER,
                         .guesses = kind == CLIENT_GUESSER,
                         .pipelines = prng_percent(p, 40)};
    bool is_one_of_these = kind == CLIENT_DYING || kind == CLIENT_DEAF;
    write_one(s, is_one_of_these ? prng_below(p, CLIENT_DYING) : kind, p);
    if (kind == CLIENT_DYING)
        s->dies_at = prng_between(p, 8, prng_percent(p, 50) ? 600 : 6000);
    if (kind == CLIENT_WORKER && prng_percent(p, 20))
        s->dies_at = prng_between(p, 300, 6000);
    if (kind == CLIENT_DEAF || (kind == CLIENT_WORKER && prng_percent(p, 15))) {
        s->pipelines = s->is_deaf_first = true;
        s->hears_after_us = prng_below(p, 8000000);
    }
    add(s, prng_percent(p, 93) ? ACT_CLOSE : ACT_VANISH, 0);
}
