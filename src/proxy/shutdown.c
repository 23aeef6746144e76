#include "proxy/shutdown.h"

#include <unistd.h>

#include "base/log.h"
#include "base/service.h"
#include "base/states.h"
#include "drain/drain.h"
#include "peer/reply.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "proxy/balance.h"
#include "proxy/proxy_struct.h"
#include "session/client.h"
#include "spooler/spooler.h"
#include "upstream/upstream.h"

enum {
    FINISH_MS = 1000, /* but no more than half of listen.shutdown_timeout */
    LEAVE_MS = 1000,
    GOODBYE_MS = 50,   /* at least, for RabbitMQ's answers to ours */
    BEYOND_MS = 10000, /* more than the steps behind listen.shutdown_timeout take */
};

static const struct states states = {
    .object = "proxy",
    .names = {[PROXY_RUNNING] = "running",
              [PROXY_FINISHING] = "finishing",
              [PROXY_SETTLING] = "settling",
              [PROXY_LEAVING] = "leaving",
              [PROXY_CLOSING] = "closing"},
    .next =
        {
            [PROXY_RUNNING] = TO(PROXY_FINISHING) | TO(PROXY_CLOSING),
            [PROXY_FINISHING] = TO(PROXY_SETTLING) | TO(PROXY_CLOSING),
            [PROXY_SETTLING] = TO(PROXY_LEAVING) | TO(PROXY_CLOSING),
            [PROXY_LEAVING] = TO(PROXY_CLOSING),
        },
};

static void enter(struct proxy *proxy, enum proxy_stage stage)
{
    STATE_MOVE(&states, proxy->stage, stage);
    proxy->rt.serves = stage <= PROXY_FINISHING;
}

/* Each stage leaves a share of listen.shutdown_timeout to those behind it. */
static uint64_t before_the_end(const struct proxy *proxy, uint32_t share)
{
    uint64_t left_ms = proxy->rt.config->listen.shutdown_timeout_ms / share;
    return proxy->give_up_ms > left_ms ? proxy->give_up_ms - left_ms : 0;
}

static void close_handle(uv_handle_t *handle)
{
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static void on_spooler_closed(void *arg)
{
    struct proxy *proxy = arg;
    proxy->rt.spooler = NULL;
    shutdown_advance(proxy);
}

static void begin_closing(struct proxy *proxy)
{
    uint64_t least = runtime_now(&proxy->rt) + GOODBYE_MS, most = before_the_end(proxy, 16);
    enter(proxy, PROXY_CLOSING);
    proxy->stage_deadline_ms = most > least ? most : least;
    struct list *next;
    for (struct list *n = proxy->clients.all.next; n != &proxy->clients.all; n = next) {
        next = n->next;
        client_close(LIST_ENTRY(n, struct client, node), "the proxy is stopping");
    }
    for (struct list *n = proxy->pools.queues.all.next; n != &proxy->pools.queues.all;
         n = n->next) {
        struct queue *queue = LIST_ENTRY(n, struct queue, node);
        if (queue->backlog.drain)
            drain_stop(queue->backlog.drain);
    }
    logins_deinit(&proxy->logins);
    for (struct list *n = proxy->upstreams.all.next; n != &proxy->upstreams.all; n = next) {
        next = n->next;
        upstream_close(LIST_ENTRY(n, struct upstream, node));
    }
    balance_look_at_end(proxy);
    /* Before the spool is another's, who makes a control socket of the same name. */
    if (proxy->side_self)
        proxy->side->close(proxy->side_self);
    proxy->side_self = NULL;
    if (proxy->rt.spooler)
        spooler_close(proxy->rt.spooler, on_spooler_closed, proxy);
    pools_close(&proxy->pools);
    /* The tick goes on for upstreams that wait for close-ok; and one more signal would kill a
     * process that has no handler for it. */
}

static bool all_is_safe(const struct proxy *proxy)
{
    if (proxy->rt.spooler && spooler_pending(proxy->rt.spooler) > 0)
        return false;
    for (struct list *n = proxy->pools.queues.all.next; n != &proxy->pools.queues.all; n = n->next)
        if (LIST_ENTRY(n, struct queue, node)->retained > 0)
            return false;
    return true;
}

/* Time is over for RabbitMQ's confirms: what it still owes goes to the spool, which needs the rest
 * of listen.shutdown_timeout for it. */
static void spool_the_rest(struct proxy *proxy)
{
    struct list *next;
    for (struct list *n = proxy->upstreams.all.next; n != &proxy->upstreams.all; n = next) {
        struct upstream *u = LIST_ENTRY(n, struct upstream, node);
        next = n->next;
        if (u->under_way.window.under_way > 0 && u->state == UPSTREAM_OPEN)
            upstream_abort(u, "the proxy is stopping");
    }
}

static void tell_clients(struct proxy *proxy)
{
    enter(proxy, PROXY_LEAVING);
    uint64_t now = runtime_now(&proxy->rt), most = before_the_end(proxy, 8);
    proxy->stage_deadline_ms = now + LEAVE_MS < most ? now + LEAVE_MS : most;
    if (proxy->stage_deadline_ms <= now)
        proxy->stage_deadline_ms = now + 1; /* what they are told is sent first */
    struct list *next;
    for (struct list *n = proxy->clients.all.next; n != &proxy->clients.all; n = next) {
        struct client *client = LIST_ENTRY(n, struct client, node);
        next = n->next;
        if (client->state >= CLIENT_OPEN)
            client_leave(client, 320, LOST_PROXY, 0);
        else
            client_close(client, "the proxy is stopping");
    }
}

/* What is still to come from clients is not looked at any more, until they have been told. */
static void settle(struct proxy *proxy)
{
    enter(proxy, PROXY_SETTLING);
    proxy->stage_deadline_ms = before_the_end(proxy, 4);
    for (struct list *n = proxy->clients.all.next; n != &proxy->clients.all; n = n->next)
        stream_pause(&LIST_ENTRY(n, struct client, node)->stream);
}

/* RabbitMQ does not answer our goodbye. */
static void abandon_upstreams(struct proxy *proxy)
{
    struct list *next;
    for (struct list *n = proxy->upstreams.all.next; n != &proxy->upstreams.all; n = next) {
        next = n->next;
        upstream_abort(LIST_ENTRY(n, struct upstream, node), "the proxy is stopping");
    }
}

static void end_stage(struct proxy *proxy)
{
    uint64_t now = runtime_now(&proxy->rt);
    switch (proxy->stage) {
    case PROXY_RUNNING:
        return;
    case PROXY_FINISHING:
        if (list_empty(&proxy->clients.all) || now >= proxy->stage_deadline_ms)
            settle(proxy);
        return;
    case PROXY_SETTLING:
        if (all_is_safe(proxy))
            tell_clients(proxy);
        else if (now >= proxy->stage_deadline_ms)
            spool_the_rest(proxy);
        return;
    case PROXY_LEAVING:
        if (list_empty(&proxy->clients.all) || now >= proxy->stage_deadline_ms)
            begin_closing(proxy);
        return;
    case PROXY_CLOSING:
        if (now >= proxy->stage_deadline_ms)
            abandon_upstreams(proxy);
        if (!list_empty(&proxy->upstreams.all) || proxy->rt.spooler)
            return;
        close_handle((uv_handle_t *)&proxy->sigterm);
        close_handle((uv_handle_t *)&proxy->sigint);
        close_handle((uv_handle_t *)&proxy->sighup);
        close_handle((uv_handle_t *)&proxy->tick);
        close_handle((uv_handle_t *)&proxy->before_poll);
        close_handle((uv_handle_t *)&proxy->not_done);
    }
}

void shutdown_advance(struct proxy *proxy)
{
    enum proxy_stage before;
    do {
        before = proxy->stage;
        end_stage(proxy);
    } while (proxy->stage != before);
}

static void stop(struct proxy *proxy)
{
    LOG(LOG_INFO, "stopping", LOG_N("clients", proxy->rt.counters.clients));
    uint64_t now = runtime_now(&proxy->rt),
             patience_ms = proxy->rt.config->listen.shutdown_timeout_ms;
    enter(proxy, PROXY_FINISHING);
    service_stopping(patience_ms + BEYOND_MS);
    proxy->stage_deadline_ms = now + (patience_ms / 2 < FINISH_MS ? patience_ms / 2 : FINISH_MS);
    proxy->give_up_ms = now + patience_ms;
    close_handle((uv_handle_t *)&proxy->plain.tcp);
    close_handle((uv_handle_t *)&proxy->tls.tcp);
    uint64_t tick = patience_ms / 32 < RUNTIME_TICK_MS ? patience_ms / 32 : RUNTIME_TICK_MS;
    uv_timer_set_repeat(&proxy->tick, tick > 0 ? tick : 1); /* a test's is longer */
    uv_timer_again(&proxy->tick);
    shutdown_advance(proxy);
}

/* The system is asked about a name, mostly a DNS that is away, which nobody can break off. All else
 * is over. */
static void leave_lookups(const struct proxy *proxy)
{
    if (proxy->stage != PROXY_CLOSING || proxy->rt.spooler || list_empty(&proxy->upstreams.all))
        return;
    for (const struct list *n = proxy->upstreams.all.next; n != &proxy->upstreams.all; n = n->next)
        if (!upstream_is_only_looked_up(LIST_ENTRY(n, struct upstream, node)))
            return;
    _exit(proxy->exit_status);
}

void shutdown_tick(struct proxy *proxy)
{
    shutdown_advance(proxy);
    leave_lookups(proxy);
}

void shutdown_wanted(struct proxy *proxy)
{
    if (proxy->stage == PROXY_RUNNING) {
        stop(proxy);
        return;
    }
    proxy->give_up_ms = runtime_now(&proxy->rt); /* a second one: at once */
    if (proxy->stage != PROXY_CLOSING)
        begin_closing(proxy);
}

void shutdown_at_once(struct proxy *proxy)
{
    close_handle((uv_handle_t *)&proxy->plain.tcp);
    close_handle((uv_handle_t *)&proxy->tls.tcp);
    begin_closing(proxy);
    shutdown_advance(proxy);
}
