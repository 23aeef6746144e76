#include "session/stalled.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "peer/runtime.h"
#include "pool/doubt.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "session/keeping.h"
#include "session/relay.h"
#include "spooler/spooler.h"

/* A destination goes as a whole, oldest publish first across all channels and upstreams: what
 * follows to it is spooled too, and must not get there before something older. So it stays while
 * one of its publishes was not kept, which was made while nothing was buffered. With spool.mode =
 * slow all destinations go, and for a while all that follows is stored first. */

enum { ALARM_MS = 1000 };

struct late {
    struct relay *relay;
    struct retained *entry;
};

struct late_list {
    struct late *all;
    size_t count, capacity;
};

static bool is_alarmed(const struct upstream *u, uint64_t now_ms)
{
    return u->blocked && now_ms - u->blocked_since_ms >= ALARM_MS;
}

/* How long RabbitMQ has been silent about it. While nothing is read from it, because the client
 * whose own connection it is does not read, the silence is not RabbitMQ's. */
static uint64_t silence_ms(const struct relay *r, const struct retained *entry, uint64_t now_ms)
{
    uint64_t since = stream_reads_since(&r->link.upstream->stream);
    if (since < entry->sent_ms)
        since = entry->sent_ms;
    return since < now_ms ? now_ms - since : 0;
}

static bool is_stalled(const struct relay *r, const struct retained *entry, uint64_t now_ms)
{
    return silence_ms(r, entry, now_ms) >= r->pool->rt->config->pool.confirm_timeout_ms;
}

static bool is_slow(const struct relay *r, const struct retained *entry, uint64_t now_ms)
{
    const struct config *config = r->pool->rt->config;
    return config->spool.mode == MODE_SLOW &&
           (r->pool->queue->is_slow || silence_ms(r, entry, now_ms) >= config->spool.slow_after_ms);
}

static bool is_late(const struct relay *r, const struct retained *entry, uint64_t now_ms)
{
    return is_alarmed(r->link.upstream, now_ms) || is_stalled(r, entry, now_ms) ||
           is_slow(r, entry, now_ms);
}

/* Calls `visit` with each open publish of the queue. */
static void each_open(struct upstreams *upstreams, struct queue *queue,
                      void (*visit)(void *arg, struct relay *, struct retained *), void *arg)
{
    for (struct list *n = upstreams->all.next; n != &upstreams->all; n = n->next) {
        struct upstream *u = LIST_ENTRY(n, struct upstream, node);
        struct relay *r;
        for (uint32_t at = 0;
             u->under_way.window.under_way > 0 && (r = relay_next(u, &at)) != NULL;) {
            if (r->pool->queue != queue || r->open == 0)
                continue;
            for (uint32_t k = 0; k < r->unconfirmed.count; k++) {
                struct retained *entry = unconfirmed_at(&r->unconfirmed, k);
                if (entry->state == RETAINED_OPEN)
                    visit(arg, r, entry);
            }
        }
    }
}

struct late_search {
    struct window destinations; /* that go */
    struct window uncopied;     /* that stay: of one of theirs there is no copy */
    uint64_t now_ms;
};

static void note_uncopied(void *arg, struct relay *r, struct retained *entry)
{
    struct late_search *search = arg;
    (void)r;
    if (!retained_is_kept(entry))
        window_take(&search->uncopied, entry->destination, 1);
}

static void say_stalled(const struct relay *r, const struct retained *entry, uint64_t now_ms)
{
    struct publish publish;
    char exchange[256] = "", key[256] = "";
    struct message view;
    const struct span *method = &retained_look(entry, &view)->method;
    if (publish_parse(method->at, method->len, &publish)) {
        memcpy(exchange, publish.exchange, publish.exchange_len);
        memcpy(key, publish.routing_key, publish.routing_key_len);
    }
    LOG_OFTEN(LOG_WARN, "confirms_stalled", LOG_T("user", r->pool->user),
              LOG_T("vhost", r->pool->vhost), LOG_T("exchange", exchange),
              LOG_T("routing_key", key), LOG_N("upstream", r->link.upstream->id),
              LOG_N("ms", now_ms - entry->sent_ms));
}

static void note_destination(void *arg, struct relay *r, struct retained *entry)
{
    struct late_search *search = arg;
    uint64_t now_ms = search->now_ms;
    if (!is_late(r, entry, now_ms) || window_share(&search->uncopied, entry->destination) > 0 ||
        window_share(&search->destinations, entry->destination) > 0)
        return;
    window_take(&search->destinations, entry->destination, 1);
    if (!is_alarmed(r->link.upstream, now_ms) && is_stalled(r, entry, now_ms))
        say_stalled(r, entry, now_ms);
}

struct harvest {
    const struct window *destinations;
    struct late_list list;
};

static void take_entry(void *arg, struct relay *r, struct retained *entry)
{
    struct harvest *harvest = arg;
    struct late_list *list = &harvest->list;
    if (window_share(harvest->destinations, entry->destination) == 0)
        return;
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? list->capacity * 2 : 64;
        list->all = memory_grow(list->all, list->capacity, sizeof *list->all);
    }
    list->all[list->count++] = (struct late){r, entry};
}

static int by_stamp(const void *a, const void *b)
{
    uint64_t x = ((const struct late *)a)->entry->stamp, y = ((const struct late *)b)->entry->stamp;
    return (x > y) - (x < y);
}

static void spool_late(struct upstreams *upstreams, struct queue *queue, uint64_t now_ms)
{
    struct late_search search = {.now_ms = now_ms};
    each_open(upstreams, queue, note_uncopied, &search);
    each_open(upstreams, queue, note_destination, &search);
    struct harvest harvest = {.destinations = &search.destinations};
    each_open(upstreams, queue, take_entry, &harvest);
    if (harvest.list.count > 0)
        qsort(harvest.list.all, harvest.list.count, sizeof *harvest.list.all, by_stamp);
    for (size_t i = 0; i < harvest.list.count; i++)
        keeping_doubt(harvest.list.all[i].relay, harvest.list.all[i].entry);
    free(harvest.list.all);
    window_clear(&search.destinations);
    window_clear(&search.uncopied);
    queue_changed(queue);
}

/* The oldest open one of those that were kept speaks for its channel. NULL if there is none. */
static struct retained *oldest_open(struct relay *r)
{
    for (uint32_t k = 0; k < r->unconfirmed.count && r->open > 0; k++) {
        struct retained *entry = unconfirmed_at(&r->unconfirmed, k);
        if (entry->state == RETAINED_OPEN && retained_is_kept(entry))
            return entry;
    }
    return NULL;
}

static void look_at(struct upstreams *upstreams, struct relay *r, uint64_t now_ms)
{
    struct queue *queue = r->pool->queue;
    const struct retained *oldest = oldest_open(r);
    if (!queue->backlog.id || !oldest || !is_late(r, oldest, now_ms))
        return;
    if (is_slow(r, oldest, now_ms) && !is_alarmed(r->link.upstream, now_ms))
        queue_note_late(queue, silence_ms(r, oldest, now_ms));
    spool_late(upstreams, queue, now_ms);
}

void stalled_look(struct upstreams *upstreams, uint64_t now_ms)
{
    if (!runtime_buffers(upstreams->rt) || !spooler_has_room(upstreams->rt->spooler))
        return; /* RabbitMQ may still take it: better than no place for it */
    for (struct list *n = upstreams->all.next; n != &upstreams->all; n = n->next) {
        struct upstream *u = LIST_ENTRY(n, struct upstream, node);
        struct relay *r;
        for (uint32_t at = 0;
             u->under_way.window.under_way > 0 && (r = relay_next(u, &at)) != NULL;)
            look_at(upstreams, r, now_ms);
    }
}
