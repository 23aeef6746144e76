#include "ledger.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agenda.h"
#include "amqp/wire.h"
#include "base/assert.h"
#include "disk.h"
#include "history.h"
#include "life.h"

const struct login logins[LOGINS] = {{"guest", "guest", "/"}, {"ann", "a", "/"}, {"bob", "b", "v"}};

static const struct {
    const char *exchange, *key;
} places[DEST_COUNT] = {
    {"", "q0"}, {"", "q1"}, {"", "q2"}, {"", "q3"}, {"", "none"}, {"missing", "k"}, {"denied", "k"},
};

const char *destination_exchange(enum destination d)
{
    return places[d].exchange;
}

const char *destination_key(enum destination d)
{
    return places[d].key;
}

enum destination destination_find(const char *exchange, const char *key)
{
    unsigned d = 0;
    while (d < DEST_COUNT && (strcmp(places[d].exchange, exchange) || strcmp(places[d].key, key)))
        d++;
    CHECK(d < DEST_COUNT, "a message goes to \"%s\" \"%s\", where none was sent", exchange, key);
    return d;
}

struct lane {
    struct lane *next;
    unsigned login;
    bool confirms;
    uint64_t left_us; /* when its publisher went, or asked to close it; 0: it is there */
    uint32_t count;
    struct {
        uint32_t first;   /* the last that came for the first time */
        uint32_t last;    /* the last that came */
        uint64_t channel; /* on which it came */
        bool nacked;      /* one was: it came again behind those that were under way */
    } seen[DEST_COUNT];
};

enum told { TOLD_NOTHING, TOLD_SAFE, TOLD_REFUSED };

struct message {
    struct lane *lane;
    uint32_t order; /* in its lane, from 1 */
    enum destination destination;
    bool persistent, mandatory;
    enum told told;
    uint32_t arrivals;
    bool is_held, is_excused, is_rejected, was_nacked, may_be_lost;
    uint64_t held_us; /* when it was confirmed last */
    uint64_t safe_us; /* when its publisher was told so */
};

static struct {
    struct message *messages; /* from 1 */
    uint32_t count, capacity;
    struct lane *lanes;
    bool forgives_transient, forgives_unheard;
    bool may_refuse[DEST_COUNT]; /* at some time */
    struct ledger_counts counts;
} ledger;

void ledger_begin(void)
{
    ENSURE(ledger.count == 0);
    ledger.forgives_transient = ledger.forgives_unheard = false;
    memset(ledger.may_refuse, 0, sizeof ledger.may_refuse);
    ledger.counts = (struct ledger_counts){0};
}

void ledger_end(void)
{
    struct lane *next;
    for (struct lane *l = ledger.lanes; l; l = next) {
        next = l->next;
        free(l);
    }
    free(ledger.messages);
    ledger.lanes = NULL;
    ledger.messages = NULL;
    ledger.count = ledger.capacity = 0;
}

struct ledger_counts ledger_counts(void)
{
    return ledger.counts;
}

struct lane *lane_new(unsigned login)
{
    struct lane *l = calloc(1, sizeof *l);
    ENSURE(l);
    *l = (struct lane){.next = ledger.lanes, .login = login};
    ledger.lanes = l;
    return l;
}

void lane_confirms(struct lane *l)
{
    l->confirms = true;
}

void lane_leave(struct lane *l)
{
    if (l->left_us == 0)
        l->left_us = agenda_now_us();
}

static struct message *at(uint32_t number)
{
    CHECK(number > 0 && number <= ledger.count, "message %u: nobody published it", number);
    return &ledger.messages[number];
}

uint32_t ledger_publish(struct lane *lane, enum destination destination, bool persistent,
                        bool mandatory)
{
    if (ledger.count + 1 >= ledger.capacity) {
        ledger.capacity = ledger.capacity * 2 + 256;
        ledger.messages = realloc(ledger.messages, ledger.capacity * sizeof *ledger.messages);
        ENSURE(ledger.messages);
    }
    ledger.messages[++ledger.count] = (struct message){.lane = lane,
                                                       .order = ++lane->count,
                                                       .destination = destination,
                                                       .persistent = persistent,
                                                       .mandatory = mandatory};
    ledger.counts.published++;
    return ledger.count;
}

void ledger_told_safe(uint32_t number)
{
    struct message *m = at(number);
    CHECK(m->told == TOLD_NOTHING, "message %u: its publisher is told of it twice", number);
    m->told = TOLD_SAFE;
    m->safe_us = agenda_now_us();
    ledger.counts.safe++;
}

void ledger_told_refused(uint32_t number)
{
    struct message *m = at(number);
    CHECK(m->told == TOLD_NOTHING, "message %u: its publisher is told of it twice", number);
    m->told = TOLD_REFUSED;
    ledger.counts.refused++;
}

void ledger_told_nacked(uint32_t number)
{
    CHECK(at(number)->was_nacked || disk_was_broken() || life_rejects(),
          "message %u: its publisher hears a nack, and nobody has refused it", number);
    ledger_told_refused(number);
}

void ledger_given_back(uint32_t number)
{
    struct message *m = at(number);
    CHECK(m->mandatory, "message %u comes back, and was not mandatory", number);
    m->is_held = true;
}

bool ledger_is_told(uint32_t number)
{
    return at(number)->told != TOLD_NOTHING;
}

bool ledger_is_left_for(uint32_t number, uint64_t us)
{
    uint64_t left_us = at(number)->lane->left_us;
    return left_us && agenda_now_us() - left_us >= us;
}

/* ---- RabbitMQ's side ---- */

static void arrives_late(struct message *m)
{
    uint32_t *first = &m->lane->seen[m->destination].first;
    m->arrivals++;
    m->is_excused = true;
    if (*first < m->order)
        *first = m->order;
}

void ledger_arrives(uint32_t number, unsigned login, uint64_t channel, bool is_late)
{
    struct message *m = at(number);
    struct lane *lane = m->lane;
    enum destination d = m->destination;
    CHECK(login == lane->login, "P6: message %u of %s comes as %s", number,
          logins[lane->login].user, logins[login].user);
    ledger.counts.arrivals++;
    if (is_late) {
        arrives_late(m);
        return;
    }
    if (m->arrivals++ == 0) {
        CHECK(m->order > lane->seen[d].first,
              "P2: message %u is number %u of its channel and comes behind number %u", number,
              m->order, lane->seen[d].first);
        lane->seen[d].first = m->order;
    } else {
        ledger.counts.repeats++;
        /* What could not be deleted is sent again on the next connection. */
        CHECK(m->is_excused || disk_was_broken(),
              "P3: message %u comes again, and nothing was the matter", number);
    }
    if (lane->seen[d].channel == channel)
        CHECK(m->order > lane->seen[d].last || m->is_excused || lane->seen[d].nacked,
              "P2: message %u is number %u of its channel and comes behind number %u", number,
              m->order, lane->seen[d].last);
    m->is_excused = false;
    lane->seen[d].last = m->order;
    lane->seen[d].channel = channel;
}

void ledger_holds(uint32_t number)
{
    struct message *m = at(number);
    m->is_held = m->is_held || m->destination != DEST_NOWHERE || !m->mandatory;
    m->held_us = agenda_now_us();
}

void ledger_nacked(uint32_t number)
{
    struct message *m = at(number);
    m->is_excused = m->was_nacked = m->lane->seen[m->destination].nacked = true;
}

void ledger_excuses(uint32_t number)
{
    at(number)->is_excused = true;
}

void ledger_excuses_since(uint64_t since_us)
{
    for (uint32_t i = 1; i <= ledger.count; i++)
        if (ledger.messages[i].held_us == 0 || ledger.messages[i].held_us >= since_us)
            ledger.messages[i].is_excused = true;
}

/* Of what its publisher has not heard of yet the word may be on its way. */
void ledger_may_lose_since(uint64_t since_us)
{
    for (uint32_t i = 1; i <= ledger.count; i++) {
        struct message *m = &ledger.messages[i];
        m->may_be_lost =
            m->may_be_lost || m->told == TOLD_NOTHING || (m->safe_us >= since_us && !m->is_held);
    }
}

void ledger_may_refuse(enum destination d)
{
    ledger.may_refuse[d] = true;
}

void ledger_forgives_unheard(void)
{
    ledger.forgives_unheard = true;
}

bool ledger_does_forgive_unheard(void)
{
    return ledger.forgives_unheard;
}

void ledger_forgives_transient(void)
{
    ledger.forgives_transient = true;
}

/* ---- the end ---- */

static bool may_be_rejected(const struct message *m, unsigned code)
{
    if (code == 403 && ledger.may_refuse[m->destination])
        return true;
    switch (m->destination) {
    case DEST_NOWHERE:
        return code == 312 && m->mandatory;
    case DEST_MISSING:
        return code == 404;
    case DEST_DENIED:
        return code == 403;
    default:
        return false;
    }
}

void ledger_found_rejected(uint32_t number, unsigned code)
{
    struct message *m = at(number);
    CHECK(may_be_rejected(m, code), "P4: message %u to \"%s\" \"%s\" was rejected with %u", number,
          destination_exchange(m->destination), destination_key(m->destination), code);
    CHECK(!m->is_rejected, "P4: message %u was rejected twice", number);
    m->is_rejected = true;
    ledger.counts.rejected++;
}

static bool may_be_lost(const struct message *m)
{
    return m->told != TOLD_SAFE || m->may_be_lost ||
           (ledger.forgives_transient && !m->persistent && !m->lane->confirms) ||
           (ledger.forgives_unheard && !m->lane->confirms);
}

void ledger_settle(void)
{
    for (uint32_t i = 1; i <= ledger.count; i++) {
        const struct message *m = &ledger.messages[i];
        CHECK(m->is_held || m->is_rejected || may_be_lost(m),
              "P1: message %u is lost: its publisher was told that it is safe, and %s", i,
              m->arrivals ? "RabbitMQ has not confirmed it" : "RabbitMQ never saw it");
    }
}

/* ---- headers and bodies ---- */

void ledger_write_header(uint32_t number, uint64_t body_size, uint8_t header[LEDGER_HEADER_BYTES])
{
    enum { CLASS_BASIC = 60, HAS_DELIVERY_MODE = 0x1000 };
    memset(header, 0, LEDGER_HEADER_BYTES);
    wire_put16(header, CLASS_BASIC);
    wire_put64(header + 4, body_size);
    wire_put16(header + 12, HAS_DELIVERY_MODE);
    header[14] = at(number)->persistent ? 2 : 1;
}

void ledger_compare(uint32_t number, const uint8_t *header, size_t len)
{
    uint8_t wanted[LEDGER_HEADER_BYTES];
    ledger_write_header(number, wire_get64(header + 4), wanted);
    CHECK(len == sizeof wanted && memcmp(header, wanted, len) == 0,
          "message %u: its properties were changed", number);
}

void ledger_write_body(uint32_t number, uint8_t *body, uint32_t size)
{
    char head[LEDGER_BODY_MIN + 1];
    snprintf(head, sizeof head, "%09u;", number);
    memcpy(body, head, LEDGER_BODY_MIN);
    for (uint32_t i = LEDGER_BODY_MIN; i < size; i++)
        body[i] = (uint8_t)(i * 31 + number);
}

uint32_t ledger_number(const uint8_t *body)
{
    return (uint32_t)strtoul((const char *)body, NULL, 10); /* it ends at a semicolon */
}

uint32_t ledger_read_body(const uint8_t *body, uint64_t size)
{
    CHECK(size >= LEDGER_BODY_MIN && body[LEDGER_BODY_MIN - 1] == ';', "a body came cut");
    uint32_t number = ledger_number(body);
    for (uint32_t i = LEDGER_BODY_MIN; i < size; i++)
        CHECK(body[i] == (uint8_t)(i * 31 + number), "message %u: its body was changed", number);
    return number;
}
