#include "drain/verdict.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/log.h"
#include "drain/apart.h"
#include "drain/blame.h"
#include "drain/drain_struct.h"
#include "drain/places.h"
#include "drain/removal.h"
#include "peer/runtime.h"

/* It goes out as RabbitMQ would have let it go: said once for each destination. */
static void tell_dropped(struct drain *d, const struct sent *entry)
{
    struct backlog *backlog = d->backlog;
    backlog->rt->counters.unroutable++;
    for (unsigned i = 0; i < BACKLOG_TOLD; i++)
        if (backlog->told[i] == entry->destination)
            return;
    backlog->told[backlog->told_next++ % BACKLOG_TOLD] = entry->destination;
    char exchange[256], routing_key[256];
    sent_name(entry, exchange, routing_key);
    LOG_OFTEN(LOG_WARN, "message_unroutable", LOG_T("user", backlog->user),
              LOG_T("vhost", backlog->vhost), LOG_N("seq", entry->seq), LOG_T("exchange", exchange),
              LOG_T("routing_key", routing_key), LOG_T("reason", entry->why));
}

/* RabbitMQ has nacked or returned this publish, which is no reason to stop the others. */
static enum remedy judge_one(struct drain *d, struct sent *entry, uint16_t code, const char *text)
{
    const struct config *config = d->backlog->rt->config;
    uint64_t now = runtime_now(d->backlog->rt);
    struct aside *a = asides_find(&d->backlog->asides, entry->destination);
    struct circumstances circumstances = {
        .tries = a && a->failing == entry->seq ? a->tries + 1 : 1,
        .nack_limit = config->drain.nack_limit,
        .just_back = now - d->backlog->back_ms < config->drain.unroutable_wait_ms,
        .mandatory = entry->mandatory,
        .unroutable_rejects = config->drain.unroutable == UNROUTABLE_REJECT,
    };
    enum remedy remedy = remedy_of(blame_of(code, text), &circumstances);
    if (remedy != REMEDY_AGAIN) {
        if (a)
            aside_taken(a, entry->seq);
        return remedy;
    }
    a = apart_set(d, entry->destination);
    uint32_t tries = aside_failed(a, entry->seq);
    batch_drop_of(&d->batch, entry->destination);
    d->nacked = d->nacked || code == 0;
    if (tries == 0)
        return remedy; /* an older one has its turn first */
    LOG_OFTEN(LOG_INFO, "drain_again", LOG_T("user", d->backlog->user),
              LOG_T("vhost", d->backlog->vhost), LOG_N("seq", entry->seq), LOG_N("code", code),
              LOG_T("reason", text), LOG_N("tries", tries));
    if (!aside_owes(a))
        aside_rest(a, now, blame_pause_ms(tries));
    return remedy;
}

/* RabbitMQ has answered a declaration: an identical one that comes now is kept again. */
static void forget_declared(struct drain *d, const struct sent *entry)
{
    if (entry->tag > 0)
        return;
    declared_remove(&d->backlog->declared, entry->destination);
    backlog_promise_ended(d->backlog, entry->promise);
}

/* True if it can be deleted. */
static bool settle_one(struct drain *d, struct sent *entry, bool nack)
{
    struct backlog *backlog = d->backlog;
    uint16_t code = nack ? 0 : entry->returned;
    backlog->confirm_ms = runtime_now(backlog->rt) - entry->sent_ms;
    const char *text = nack ? "nacked by RabbitMQ" : entry->why;
    in_flight_set(&d->sent, entry, SENT_CONFIRMED);
    forget_declared(d, entry);
    if (entry->tag > d->heard_tag)
        d->heard_tag = entry->tag;
    struct aside *a = asides_find(&backlog->asides, entry->destination);
    if (a && a->under_way > 0)
        a->under_way--;
    if (!nack && !entry->returned) {
        if (a)
            aside_taken(a, entry->seq);
        return true;
    }
    enum remedy remedy = d->confirms ? judge_one(d, entry, code, text) : REMEDY_REJECT;
    if (remedy == REMEDY_REJECT)
        removal_reject(d, entry, code, text);
    else if (remedy == REMEDY_DROP)
        tell_dropped(d, entry);
    else
        in_flight_set(&d->sent, entry, SENT_AGAIN);
    return remedy == REMEDY_DROP;
}

/* The next one that it concerns and that is not answered yet; `at` as in in_flight_next. */
static struct sent *concerned(struct drain *d, const struct verdict *verdict, uint32_t *at)
{
    struct sent *entry;
    if (verdict->all) {
        while ((entry = in_flight_next(&d->sent, at)) != NULL && !sent_is_open(entry))
            continue;
        return entry;
    }
    if (!verdict->multiple)
        return in_flight_tagged(&d->sent, verdict->tag);
    entry = in_flight_oldest(&d->sent);
    return entry && (entry->tag <= verdict->tag || verdict->tag == 0) ? entry : NULL;
}

void verdict_apply(struct drain *d, const struct verdict *verdict)
{
    bool one = !verdict->all && !verdict->multiple;
    uint64_t *seqs = malloc((one ? 1 : d->sent.count + 1) * sizeof *seqs);
    ENSURE(seqs);
    uint32_t count = 0, again = 0, at = 0;
    struct sent *entry;
    while ((entry = concerned(d, verdict, &at)) != NULL) {
        if (settle_one(d, entry, verdict->nack))
            seqs[count++] = entry->seq;
        again += entry->state == SENT_AGAIN;
    }
    removal_delete(d, seqs, count);
    free(seqs);
    if (again > 0)
        places_freed(d, in_flight_forget_again(&d->sent));
}

bool verdict_declared(struct drain *d)
{
    struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(&d->sent, &at)) != NULL;) {
        if (entry->tag == 0 && entry->state == SENT_UNCONFIRMED) {
            in_flight_set(&d->sent, entry, SENT_CONFIRMED);
            forget_declared(d, entry);
            d->heard_tag = d->last_tag; /* it has read all that was sent before */
            removal_delete(d, &entry->seq, 1);
            return true;
        }
    }
    return false;
}

/* RabbitMQ failed at a record that was alone. Either it is rejected, or it stays where it is, and
 * so does what is behind it. */
static void judge(struct drain *d, struct sent *entry, uint16_t code, const char *text,
                  bool is_sure)
{
    struct backlog *backlog = d->backlog;
    const struct config *config = backlog->rt->config;
    struct circumstances circumstances = {
        .tries = search_failed(&backlog->search, entry->seq),
        .nack_limit = config->drain.nack_limit,
        .missing_waits = config->drain.missing == MISSING_WAIT,
    };
    enum blame blame = blame_of(code, text);
    bool is_another = !is_sure && blame != BLAME_TRANSIENT;
    if (is_another || remedy_of(blame, &circumstances) == REMEDY_AGAIN) {
        search_again(&backlog->search, entry->seq);
        backlog->drain_again_ms = runtime_now(backlog->rt) + blame_pause_ms(circumstances.tries);
        return;
    }
    search_given_up(&backlog->search);
    struct aside *a = asides_find(&backlog->asides, entry->destination);
    if (a)
        aside_taken(a, entry->seq);
    in_flight_set(&d->sent, entry, SENT_CONFIRMED);
    forget_declared(d, entry);
    removal_reject(d, entry, code, text);
}

void verdict_closed(struct drain *d, uint16_t code, const char *text, bool is_sure)
{
    uint32_t count;
    struct sent *first = in_flight_first_open(&d->sent, &count);
    if (!first)
        return;
    if (count == 1) {
        judge(d, first, code, text, is_sure);
        return;
    }
    const struct sent *accused = in_flight_accused(&d->sent, text);
    search_narrow(&d->backlog->search, count, accused ? accused->seq : 0);
}
