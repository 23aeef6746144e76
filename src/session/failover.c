#include "session/failover.h"

#include <stdlib.h>

#include "amqp/rules.h"
#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "peer/reply.h"
#include "peer/runtime.h"
#include "pool/append.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/keeping.h"
#include "session/offline.h"
#include "session/redo.h"
#include "session/refusal.h"
#include "session/relay.h"
#include "session/transaction.h"
#include "upstream/shareable.h"

/* One thing that was sent and not answered: a publish or a method of a relay. */
struct unanswered {
    uint64_t stamp;
    struct relay *relay;
    struct retained *publish; /* or NULL: */
    struct awaited *call;
};

static int by_stamp(const void *a, const void *b)
{
    uint64_t x = ((const struct unanswered *)a)->stamp, y = ((const struct unanswered *)b)->stamp;
    return (x > y) - (x < y);
}

static size_t count_unanswered(struct upstream *u)
{
    size_t count = 0;
    const struct relay *r;
    for (uint32_t at = 0; (r = relay_next(u, &at)) != NULL;)
        count += r->unconfirmed.count + r->calls.count;
    return count;
}

static size_t collect_of(struct relay *r, struct unanswered *out)
{
    size_t n = 0;
    for (uint32_t k = 0; k < r->unconfirmed.count; k++) {
        struct retained *entry = unconfirmed_at(&r->unconfirmed, k);
        if (entry->state == RETAINED_OPEN)
            out[n++] = (struct unanswered){entry->stamp, r, entry, NULL};
    }
    for (uint32_t k = 0; k < r->calls.count; k++)
        out[n++] =
            (struct unanswered){calls_at(&r->calls, k)->stamp, r, NULL, calls_at(&r->calls, k)};
    return n;
}

static size_t collect(struct upstream *u, struct unanswered *out)
{
    size_t n = 0;
    struct relay *r;
    for (uint32_t at = 0; (r = relay_next(u, &at)) != NULL;)
        n += collect_of(r, out + n);
    return n;
}

/* ---- whose fault it is ---- */

enum fault {
    FAULT_NOBODYS,  /* an outage, a shutdown, or what a drain has sent */
    FAULT_KNOWN,    /* it is this relay's */
    FAULT_POSSIBLE, /* it may be that of any relay for which might_be_guilty is true */
};

struct blame {
    enum fault fault;
    amqp_method_number_t cause; /* RabbitMQ names it; 0: it names none */
    struct relay *guilty;       /* FAULT_KNOWN */
};

static bool is_error(const struct upstream_end *end)
{
    return end->code != 0 && end->code != 320;
}

/* RabbitMQ works through a channel's methods in order: it is the first that has no answer. */
static bool might_be_guilty(struct relay *r, amqp_method_number_t cause)
{
    if (!r->channel)
        return false;
    if (cause == 0)
        return !relay_is_settled(r);
    if (cause == AMQP_BASIC_PUBLISH_METHOD)
        return r->unconfirmed.count > 0;
    for (uint32_t i = 0; i < r->calls.count; i++) {
        const struct awaited *call = calls_at(&r->calls, i);
        if (call->method == cause || call->payload.slab) /* else it is the proxy's own */
            return call->method == cause;
    }
    return false;
}

static struct blame find_blame(struct upstream *u, const struct upstream_end *end)
{
    struct blame blame = {.cause = end->cause};
    unsigned candidates = 0;
    struct link *link;
    for (uint32_t at = 0; is_error(end) && (link = links_next(&u->links, &at)) != NULL;) {
        struct relay *r = relay_of(link);
        if (!r)
            candidates += 1; /* a drain: it may have been that one */
        if (!r || !might_be_guilty(r, end->cause))
            continue;
        candidates++;
        if (!blame.guilty || r->stamp < blame.guilty->stamp)
            blame.guilty = r;
    }
    if (!blame.guilty)
        return blame;
    if (end->cause == 0 || end->cause == AMQP_BASIC_PUBLISH_METHOD)
        blame.fault = FAULT_POSSIBLE; /* one message of many, and RabbitMQ may have failed itself */
    else /* channels are opened in turn: the first that was not is the one too many */
        blame.fault = candidates == 1 || end->cause == AMQP_CHANNEL_OPEN_METHOD ? FAULT_KNOWN
                                                                                : FAULT_POSSIBLE;
    return blame;
}

static bool is_suspect(const struct blame *blame, struct relay *r)
{
    return blame->fault == FAULT_KNOWN
               ? r == blame->guilty
               : blame->fault == FAULT_POSSIBLE && might_be_guilty(r, blame->cause);
}

static void set_suspects_apart(struct upstream *u, const struct blame *blame)
{
    if (blame->cause == AMQP_CHANNEL_OPEN_METHOD)
        return; /* a connection of its own would not have more room */
    struct relay *r;
    for (uint32_t at = 0; (r = relay_next(u, &at)) != NULL;)
        if (is_suspect(blame, r))
            client_set_apart(r->channel->client);
}

/* ---- what becomes of it ---- */

/* What offline.c answers because it waits in the spool, in its place among the publishes. */
static bool can_wait(amqp_method_number_t method)
{
    return rule_has(method, RULE_KEPT) || rule_has(method, RULE_TRANSACTION);
}

static void answer_here(struct channel *channel, amqp_method_number_t method,
                        const struct span *payload)
{
    struct refusal why;
    if (!offline_lost_end(channel, method) &&
        !offline_method(channel, payload->at, payload->len, method, &why))
        refusal_say(&why, channel);
}

/* Also that of a channel which was closed before, if it has published what is lost now. */
static void close_client(struct relay *r)
{
    struct client *client = r->channel    ? r->channel->client
                            : r->open > 0 ? handles_get(r->client)
                                          : NULL;
    if (client)
        client_refuse(client, 320, LOST_RABBITMQ, 0);
}

/* It takes away messages, or ways to them; what was published behind it is in the spool, and may be
 * there first when it is sent again. */
static bool would_take_what_follows(const struct relay *r, const struct awaited *call)
{
    if (!rule_has(call->method, RULE_TAKES))
        return false;
    for (uint32_t i = 0; i < r->unconfirmed.count; i++) {
        const struct retained *entry = unconfirmed_at(&r->unconfirmed, i);
        if (entry->state == RETAINED_OPEN && entry->stamp > call->stamp)
            return true;
    }
    return false;
}

static void move_call(struct relay *r, struct awaited *call, bool spools, bool suspect)
{
    struct channel *channel = r->channel;
    struct span *payload = &call->payload;
    const struct upstream_end *end = &r->link.upstream->end;
    if (call->tx && !transaction_is_kept(call->tx)) {
        close_client(r); /* nobody knows whether RabbitMQ has committed it */
        return;
    }
    if (call->tx) { /* a commit: its answer follows the spool's */
        transaction_commit(call->tx, r->pool);
        call->tx = NULL;
        return;
    }
    if (call->is_half && channel && channel->state <= CHANNEL_SETTLING)
        channel_send(channel, AMQP_TX_COMMIT_OK_METHOD, &(amqp_tx_commit_ok_t){0});
    if (!payload->slab)
        return; /* the proxy's own */
    method_set_nowait(payload->at, payload->len, call->nowait);
    bool waits = spools && !suspect && can_wait(call->method);
    if (!channel && waits && !(is_error(end) && end->cause == call->method))
        offline_keep(r->pool, payload->at, payload->len);
    if (!channel)
        return;
    bool is_heard = channel->state == CHANNEL_OPEN || channel->state == CHANNEL_SETTLING;
    bool is_answered = is_heard && waits && !channel->redo;
    bool overtakes = is_heard && channel->committing > 0; /* a commit's answer, after the spool's */
    bool takes = !is_answered && channel->state == CHANNEL_OPEN && would_take_what_follows(r, call);
    /* Nobody knows whether that is done, and close-ok would say so. */
    bool is_refused = channel->state == CHANNEL_SETTLING && rule_has(call->method, RULE_TAKES);
    if (overtakes || takes)
        close_client(r); /* as RabbitMQ's own end would */
    else if (is_answered || is_refused)
        answer_here(channel, call->method, payload);
    else if (channel->state == CHANNEL_OPEN) {
        redo_add(&channel->redo, call->method, payload, r->pool->failures);
        client_hold(channel->client);
    }
}

/* One that RabbitMQ is known to end connections over would do so again from the spool. */
static bool is_wild(const struct message *message)
{
    return !shareable_publish(message->method.at, message->method.len, message->header.at,
                              message->header.len);
}

static void move_publish(struct relay *r, struct retained *entry, bool spools)
{
    const struct upstream_end *end = &r->link.upstream->end;
    if (is_error(end) && (end->cause == 0 || end->cause == AMQP_BASIC_PUBLISH_METHOD))
        r->pool->queue->backlog.alone = true; /* this one may be the reason */
    if (!spools || !retained_is_kept(entry)) {
        close_client(r); /* sent while buffering was off: nothing was kept of it */
        return;
    }
    struct message message;
    retained_take(entry, &message);
    if (is_error(end) && is_wild(&message))
        append_rejected(r->pool, keeping_publisher(r), &message, end->code, end->text);
    else
        append_publish(r->pool, keeping_publisher(r), &message, entry->client_tag);
}

static void close_clients(struct upstream *u)
{
    struct relay *r;
    for (uint32_t at = 0; (r = relay_next(u, &at)) != NULL;)
        close_client(r);
}

static void move_all(struct pool *pool, struct upstream *u, const struct blame *blame,
                     enum failover_calls calls)
{
    bool spools = runtime_buffers(pool->rt) && pool->queue->backlog.id;
    size_t count = count_unanswered(u);
    struct unanswered *all = malloc((count + 1) * sizeof *all);
    ENSURE(all);
    count = collect(u, all);
    qsort(all, count, sizeof *all, by_stamp);
    for (size_t i = 0; i < count; i++) {
        struct relay *r = all[i].relay;
        bool guilty = blame->fault == FAULT_KNOWN && r == blame->guilty;
        if (all[i].publish)
            move_publish(r, all[i].publish, spools);
        else if (all[i].call->tx || (calls == FAILOVER_ANSWER && !guilty))
            move_call(r, all[i].call, spools, is_suspect(blame, r));
    }
    free(all);
}

void failover_shared(struct pool *pool, struct upstream *u, const struct upstream_end *end)
{
    struct blame blame = find_blame(u, end);
    if (!is_error(end) && !(runtime_buffers(pool->rt) && pool->queue->backlog.id)) {
        close_clients(u);
        return;
    }
    if (is_error(end) && end->cause == AMQP_CHANNEL_OPEN_METHOD)
        pool_learn_limit(pool, end->text);
    else if (blame.fault != FAULT_NOBODYS)
        pool_beware(pool, blame.cause);
    struct client *guilty = blame.fault == FAULT_KNOWN ? blame.guilty->channel->client : NULL;
    set_suspects_apart(u, &blame);
    move_all(pool, u, &blame, FAILOVER_ANSWER);
    if (guilty)
        client_refuse(guilty, end->code, end->text, end->cause);
}

void failover_own(struct pool *pool, struct upstream *u, enum failover_calls calls)
{
    if (!runtime_buffers(pool->rt) || !pool->queue->backlog.id) {
        if (!is_error(&u->end)) /* else its owner hears RabbitMQ's own words */
            close_clients(u);
        return;
    }
    move_all(pool, u, &(struct blame){.fault = FAULT_NOBODYS}, calls);
}

void failover_orphan(struct relay *r)
{
    size_t count = r->unconfirmed.count + r->calls.count;
    struct unanswered *all = malloc((count + 1) * sizeof *all);
    ENSURE(all);
    count = collect_of(r, all);
    qsort(all, count, sizeof *all, by_stamp);
    for (size_t i = 0; i < count; i++) {
        if (all[i].publish)
            move_publish(r, all[i].publish, true);
        else if (all[i].call->tx)
            move_call(r, all[i].call, true, false);
    }
    free(all);
}
