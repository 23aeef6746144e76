#include "drain/apart.h"

#include "amqp/method.h"
#include "base/log.h"
#include "drain/aside.h"
#include "drain/drain_struct.h"
#include "drain/left.h"
#include "drain/places.h"
#include "peer/runtime.h"

enum {
    ASIDES_MAX = 64,  /* apart_hold_others */
    WOKEN_MAX = 32,   /* at once: more would hold up all others if RabbitMQ is silent still */
    SILENT_LONG = 10, /* times pool.confirm_timeout: then something is sent again all the same */
    SOON_MS = 5000,   /* once a channel was stuck */
    NEW_MS = 1000,    /* and for a destination that was not aside yet: there may be hundreds */
    STUCK_REST_MS = 30000, /* then others have their turn, before one is tried again */
};

struct aside *apart_set(struct drain *d, uint64_t destination)
{
    struct aside *a = asides_find(&d->backlog->asides, destination);
    if (a)
        return a;
    a = asides_add(&d->backlog->asides, destination, d->read_after);
    a->under_way = in_flight_open_of(&d->sent, destination);
    return a;
}

/* Nothing more is sent there for so long, unless RabbitMQ answers. */
static void set_silent(struct drain *d, const struct sent *first, uint64_t now_ms,
                       uint32_t pause_ms)
{
    char exchange[256], routing_key[256];
    sent_name(first, exchange, routing_key);
    struct aside *a = apart_set(d, first->destination);
    aside_is_silent(a, now_ms, pause_ms);
    LOG_OFTEN(LOG_WARN, "confirms_stalled", LOG_T("user", d->backlog->user),
              LOG_T("vhost", d->backlog->vhost), LOG_T("exchange", exchange),
              LOG_T("routing_key", routing_key), LOG_N("unconfirmed", a->under_way));
}

static bool is_silent(struct drain *d, const struct sent *entry)
{
    const struct aside *a = asides_find(&d->backlog->asides, entry->destination);
    return a && a->state == ASIDE_SILENT;
}

/* Nobody waits for what silent ones owe. */
static void park_silent(struct drain *d)
{
    uint32_t places = in_flight_in_window(&d->sent);
    struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(&d->sent, &at)) != NULL;)
        if (entry->state == SENT_UNCONFIRMED && entry->tag > 0 && is_silent(d, entry))
            in_flight_set(&d->sent, entry, SENT_PARKED);
    places_freed(d, places - in_flight_in_window(&d->sent));
}

/* What was published behind it needs it: so it is waited for, as long as the connection lives. */
static void tell_unanswered(struct drain *d, const struct sent *entry)
{
    if (d->told == entry->seq)
        return;
    d->told = entry->seq;
    LOG(LOG_WARN, "declaration_stalled", LOG_T("user", d->backlog->user),
        LOG_T("vhost", d->backlog->vhost), LOG_N("seq", entry->seq),
        LOG_T("method", method_name(entry->method)));
}

void apart_look_for_silence(struct drain *d, uint64_t now_ms)
{
    uint32_t timeout = d->backlog->rt->config->pool.confirm_timeout_ms;
    bool parks = false;
    const struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(&d->sent, &at)) != NULL;) {
        uint64_t since = upstream_reads_since(d->link.upstream, entry->sent_ms);
        if (entry->state != SENT_UNCONFIRMED || now_ms - since < timeout)
            continue;
        if (entry->tag == 0)
            tell_unanswered(d, entry);
        else if (!is_silent(d, entry))
            set_silent(d, entry, now_ms, SILENT_LONG * timeout);
        parks = parks || entry->tag > 0;
    }
    if (parks)
        park_silent(d);
}

/* RabbitMQ works through a channel in order. */
static bool is_behind(const struct sent *entry, const struct sent *first)
{
    return entry->destination != first->destination &&
           (entry->tag > 0 ? entry->tag > first->tag : entry->sent_ms >= first->sent_ms);
}

/* What RabbitMQ has got to, if that is known, or NULL. */
static const struct sent *marked(struct drain *d)
{
    uint64_t tag = marks_stuck_at(&d->marks);
    return tag > 0 ? in_flight_tagged(&d->sent, tag) : NULL;
}

static bool is_new(struct drain *d, const struct sent *first)
{
    return first && !asides_find(&d->backlog->asides, first->destination);
}

uint32_t apart_soon_ms(struct drain *d)
{
    uint32_t timeout = d->backlog->rt->config->pool.confirm_timeout_ms;
    uint32_t soon = is_new(d, marked(d)) ? NEW_MS : SOON_MS;
    return soon < timeout ? soon : timeout;
}

/* It is asked earlier once a channel was stuck: the next one may be as well. */
static bool is_late(struct drain *d, const struct sent *entry, uint64_t now_ms)
{
    const struct backlog *backlog = d->backlog;
    uint32_t patience_ms =
        backlog->stuck_ms > 0 ? apart_soon_ms(d) : backlog->rt->config->pool.confirm_timeout_ms;
    return now_ms - upstream_reads_since(d->link.upstream, entry->sent_ms) >= patience_ms;
}

bool apart_channel_seems_stuck(struct drain *d, uint64_t now_ms)
{
    const struct sent *first = marked(d), *entry;
    if (first)
        return is_late(d, first, now_ms);
    first = in_flight_behind(&d->sent, d->heard_tag);
    for (uint32_t at = 0; first && (entry = in_flight_next(&d->sent, &at)) != NULL;)
        if (entry->state == SENT_UNCONFIRMED && is_behind(entry, first) &&
            is_late(d, entry, now_ms))
            return true;
    return false;
}

void apart_channel_is_stuck(struct drain *d, uint64_t now_ms)
{
    const struct sent *known = marked(d);
    uint32_t timeout = d->backlog->rt->config->pool.confirm_timeout_ms;
    d->backlog->stuck_ms = now_ms;
    if (known) /* soon found, and soon tried again: that may have been hasty */
        set_silent(d, known, now_ms, is_new(d, known) ? STUCK_REST_MS : SILENT_LONG * timeout);
    park_silent(d);
}

void apart_forget_stuck(struct drain *d, uint64_t now_ms)
{
    uint64_t long_ms = (uint64_t)SILENT_LONG * d->backlog->rt->config->pool.confirm_timeout_ms;
    if (d->backlog->asides.count == 0 && now_ms - d->backlog->stuck_ms > long_ms)
        d->backlog->stuck_ms = 0;
}

/* What it owes goes out once more. */
static void wake_silent(struct drain *d, struct aside *a)
{
    const struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(&d->sent, &at)) != NULL;)
        if (entry->destination == a->destination && sent_is_open(entry))
            aside_rewind(a, entry->seq);
    a->under_way = 0;
    batch_drop_of(&d->batch, a->destination);
    places_freed(d, in_flight_forget_open(&d->sent, a->destination));
}

/* The silent one that has waited longest beyond its time, and may be sent to, or NULL. */
static struct aside *longest_due(struct drain *d, uint64_t now_ms)
{
    struct asides *asides = &d->backlog->asides;
    struct aside *best = NULL;
    for (uint32_t i = 0; i < asides->count; i++) {
        struct aside *a = &asides->all[i];
        if (a->state == ASIDE_SILENT && now_ms >= a->again_ms &&
            (!best || a->again_ms < best->again_ms) &&
            !doubts_hold(&d->backlog->doubts, a->destination))
            best = a;
    }
    return best;
}

/* RabbitMQ may be silent about it still. */
static bool is_untried(const struct drain *d, const struct aside *a)
{
    return a->state == ASIDE_TRYING && a->fine == 0 && a->failing == 0 &&
           !doubts_hold(&d->backlog->doubts, a->destination);
}

/* Of the silent ones. Each may be a channel that is stuck, and all others wait until that is known:
 * so they are tried one by one, and seldom enough that the others go on in between. */
static uint32_t most_untried(const struct drain *d, uint64_t now_ms)
{
    const struct backlog *backlog = d->backlog;
    if (backlog->stuck_ms == 0)
        return WOKEN_MAX;
    bool is_over = now_ms - backlog->stuck_ms >= STUCK_REST_MS;
    return is_over && backlog->left <= LEFT_MAX / 2 ? 1 : 0; /* more are left for new ones */
}

void apart_wake(struct drain *d, uint64_t now_ms)
{
    struct asides *asides = &d->backlog->asides;
    struct aside *a;
    uint32_t untried = 0, most = most_untried(d, now_ms);
    for (uint32_t i = 0; i < asides->count; i++) {
        a = &asides->all[i];
        if (a->state == ASIDE_RESTING)
            aside_wakes(a, now_ms);
        untried += is_untried(d, a);
    }
    for (; untried < most && (a = longest_due(d, now_ms)) != NULL; untried++) {
        aside_wakes(a, now_ms);
        wake_silent(d, a);
    }
}

void apart_begin_again(struct drain *d, uint64_t now_ms, bool keeps_silent)
{
    struct asides *asides = &d->backlog->asides;
    uint32_t timeout = d->backlog->rt->config->pool.confirm_timeout_ms;
    bool searches = d->backlog->search.careful > 0;
    for (uint32_t i = 0; i < asides->count; i++) {
        struct aside *a = &asides->all[i];
        a->under_way = a->fine = 0;
        if (a->state == ASIDE_SILENT && !keeps_silent && (searches || a->again_ms > now_ms))
            aside_is_silent(a, now_ms, searches ? timeout : 0);
    }
    if (!keeps_silent)
        apart_wake(d, now_ms);
}

static bool has_caught_up(const struct drain *d, const struct aside *a)
{
    return (a->scanned > 0 && a->scanned == d->read_after) ||
           (a->cursor >= d->read_after && (a->fine > 0 || d->at_end));
}

/* One that cannot be read any more comes no more: with the end all that is there was looked at. */
static bool has_failing(const struct drain *d, const struct aside *a)
{
    return a->failing != 0 && !(d->at_end && a->failing > d->read_after);
}

bool apart_join(struct drain *d)
{
    struct asides *asides = &d->backlog->asides;
    uint32_t before = asides->count;
    for (uint32_t i = before; i-- > 0;) {
        struct aside *a = &asides->all[i];
        if (a->state == ASIDE_TRYING && a->under_way == 0 && !has_failing(d, a) &&
            has_caught_up(d, a))
            asides_remove(asides, a);
    }
    return asides->count < before;
}

struct aside *apart_next(struct drain *d, uint32_t *room)
{
    struct asides *asides = &d->backlog->asides;
    for (uint32_t i = 0; i < asides->count; i++) {
        struct aside *a = &asides->all[i];
        *room = aside_room(a, places_window(d));
        if (*room > 0 && a->cursor < d->read_after && !has_caught_up(d, a) &&
            !doubts_hold(&d->backlog->doubts, a->destination))
            return a;
    }
    return NULL;
}

bool apart_wants_new_channel(const struct drain *d, const struct aside *a)
{
    bool is_last = a->tries + 1 >= d->backlog->rt->config->drain.nack_limit;
    return a->failing != 0 && d->nacked && (d->sent.parked == 0 || is_last);
}

uint32_t apart_open(const struct drain *d)
{
    const struct asides *asides = &d->backlog->asides;
    uint32_t open = 0;
    for (uint32_t i = 0; i < asides->count; i++)
        open += in_flight_open_of(&d->sent, asides->all[i].destination);
    return open;
}

bool apart_hold_others(const struct drain *d)
{
    const struct asides *asides = &d->backlog->asides;
    uint32_t busy = 0;
    for (uint32_t i = 0; i < asides->count; i++) {
        const struct aside *a = &asides->all[i];
        busy += a->state != ASIDE_SILENT && (a->cursor < d->read_after || a->under_way > 0);
    }
    return busy >= ASIDES_MAX;
}
