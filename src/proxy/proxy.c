#include "proxy/proxy.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "base/service.h"
#include "base/slab.h"
#include "base/test_switch.h"
#include "drain/drain.h"
#include "pool/connections.h"
#include "pool/held.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "pool/rejected_bound.h"
#include "proxy/balance.h"
#include "proxy/certificates.h"
#include "proxy/memory_limit.h"
#include "proxy/reload.h"
#include "proxy/shutdown.h"
#include "proxy/stall.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/orphans.h"
#include "session/session.h"
#include "session/stalled.h"
#include "spooler/spooler.h"
#include "upstream/upstream.h"

/* Start: spool, its queues, listener, drains. What each turn of the loop and each tick does. */

enum {
    ROUNDS_MAX = 16, /* of a turn of the loop */
    AWAY_TICKS = 4,
};

/* ---- each turn of the loop ---- */

/* Who may go on does, and what events and that have produced goes out: confirms to clients, jobs to
 * the spooler, bytes to the sockets. */
static void run_round(struct proxy *proxy)
{
    memory_limit_look(proxy);
    held_run(&proxy->pools);
    struct list *node;
    while ((node = list_first(&proxy->clients.acking)) != NULL)
        channel_say_acks(LIST_ENTRY(node, struct channel, ack_node));
    if (proxy->rt.spooler)
        spooler_hand_over(proxy->rt.spooler);
    net_flush(&proxy->rt.net);
}

/* A flush tells of sockets that take bytes again, and of those that have failed: somebody may go
 * on, and something may have to be stored. */
static bool is_work_left(const struct proxy *proxy)
{
    return !list_empty(&proxy->pools.waking) || !list_empty(&proxy->clients.acking) ||
           !list_empty(&proxy->rt.net.unflushed) ||
           (proxy->rt.spooler && spooler_gathers(proxy->rt.spooler));
}

/* Not in the middle of an end, whose times have begun. */
static void reload_if_wanted(struct proxy *proxy)
{
    bool is_wanted = proxy->reload_wanted && proxy->stage == PROXY_RUNNING;
    proxy->reload_wanted = false;
    if (!is_wanted)
        return;
    service_reloading();
    reload(proxy);
    service_ready();
}

static void on_not_done(uv_idle_t *handle)
{
    (void)handle; /* it is enough that the loop does not wait */
}

/* Nothing that can be done now waits for the next event. Who could go on for ever gives way to the
 * others' events after some rounds. */
static void on_before_poll(uv_prepare_t *handle)
{
    struct proxy *proxy = handle->data;
    unsigned rounds = 0;
    reload_if_wanted(proxy);
    shutdown_advance(proxy);
    if (uv_is_closing((uv_handle_t *)handle))
        return;
    do
        run_round(proxy);
    while (is_work_left(proxy) && ++rounds < ROUNDS_MAX);
    if (is_work_left(proxy))
        uv_idle_start(&proxy->not_done, on_not_done);
    else
        uv_idle_stop(&proxy->not_done);
}

/* Who is held because the spool has no room, or because others have filled the way to it, is told
 * by no answer to a job of its own. */
static void look_at_room(struct proxy *proxy)
{
    if (test_switch("AMQPBUF_TEST_NO_TICK_WAKES") || !proxy->rt.spooler ||
        !spooler_has_room(proxy->rt.spooler) || spooler_is_full(proxy->rt.spooler))
        return;
    for (struct list *n = proxy->pools.all.next; n != &proxy->pools.all; n = n->next)
        held_wake(LIST_ENTRY(n, struct pool, node));
}

static void tick_all(struct proxy *proxy, uint64_t now)
{
    struct list *next;
    for (struct list *n = proxy->clients.all.next; n != &proxy->clients.all; n = next) {
        next = n->next;
        session_tick(LIST_ENTRY(n, struct client, node), now);
    }
    /* What a tick closes is freed by a later callback: the lists do not change under the walk. */
    for (struct list *n = proxy->upstreams.all.next; n != &proxy->upstreams.all; n = next) {
        next = n->next;
        upstream_tick(LIST_ENTRY(n, struct upstream, node), now);
    }
    stalled_look(&proxy->upstreams, now);
    orphans_look(&proxy->upstreams, now);
    for (struct list *n = proxy->pools.queues.all.next; n != &proxy->pools.queues.all;
         n = n->next) {
        struct queue *queue = LIST_ENTRY(n, struct queue, node);
        rejected_bound_look(queue, false);
        if (!queue->backlog.drain) {
            queue->drain_rate = (struct rate){0};
            queue_drain_if_possible(queue); /* a connection for it may have been put off */
            continue;
        }
        rate_look(&queue->drain_rate, queue->backlog.drained, now);
        drain_tick(queue->backlog.drain, now);
        if (!test_switch("AMQPBUF_TEST_NO_TICK_WAKES"))
            queue_changed(queue); /* who was held at its end may have waited long enough */
    }
}

static void cleanup(struct proxy *proxy, uint64_t now)
{
    if (proxy->cleaned_ms && now - proxy->cleaned_ms < proxy->rt.config->pool.cleanup_interval_ms)
        return;
    proxy->cleaned_ms = now;
    struct list *next;
    for (struct list *n = proxy->pools.all.next; n != &proxy->pools.all; n = next) {
        next = n->next;
        pool_cleanup(LIST_ENTRY(n, struct pool, node), now);
    }
    for (struct list *n = proxy->pools.queues.all.next;
         proxy->rt.spooler && n != &proxy->pools.queues.all; n = n->next) {
        struct queue *queue = LIST_ENTRY(n, struct queue, node);
        rejected_bound_look(queue, true);
        queue_cleanup(queue, now);
    }
}

/* AMQPBUF_TEST_TICK_MS: a long one shows who waits for the tick alone. */
static uint64_t tick_ms(void)
{
    return test_number("AMQPBUF_TEST_TICK_MS", RUNTIME_TICK_MS);
}

/* The process did not run for a while: it was stopped, or its machine slept. What has come
 * meanwhile is in the sockets, and the loop reads it behind this tick: nobody is late before that.
 * Once, so that a loop whose every turn takes long goes on all the same. */
static bool was_away(struct proxy *proxy, uint64_t now)
{
    bool away = proxy->ticked_ms && now - proxy->ticked_ms >= AWAY_TICKS * tick_ms();
    proxy->ticked_ms = away ? 0 : now;
    return away;
}

static void on_tick(uv_timer_t *timer)
{
    struct proxy *proxy = timer->data;
    uint64_t now = runtime_now(&proxy->rt);
    service_alive(now);
    log_tell_suppressed();
    if (was_away(proxy, now))
        return;
    tick_all(proxy, now);
    look_at_room(proxy);
    stall_look(proxy, now);
    certificates_tick(&proxy->certificates, proxy->rt.config, now);
    balance_look(proxy);
    if (proxy->stage == PROXY_RUNNING)
        cleanup(proxy, now);
    if (!login_is_possible(&proxy->logins))
        lookup_again(&proxy->lookup, now);
    shutdown_tick(proxy);
}

static void on_stop_signal(uv_signal_t *handle, int signal)
{
    (void)signal;
    shutdown_wanted(handle->data);
}

static void on_sighup(uv_signal_t *handle, int signal)
{
    (void)signal;
    struct proxy *proxy = handle->data;
    proxy->reload_wanted = true;
}

/* ---- the start ---- */

static void found_queue(void *arg, const struct spooler_queue *found)
{
    struct proxy *proxy = arg;
    struct identity identity;
    identity_init(&identity, found->user, found->password ? found->password : "");
    struct queue *queue =
        queue_new(&proxy->rt, &proxy->pools.queues, found->user, identity.name, found->vhost);
    queue->backlog.id = found->id;
    queue->backlog.waiting = found->messages;
    queue->backlog.rejected = found->rejected;
    if (!found->password) {
        LOG(LOG_ERROR, "login_unreadable", LOG_T("user", found->user), LOG_T("vhost", found->vhost),
            LOG_N("messages", found->messages),
            LOG_T("reason", "the credential key is not the one it was sealed with"));
    } else {
        queue_set_password(queue, found->password);
        pool_new(&proxy->pools, &identity, found->password, found->vhost, LOGIN_PROVEN);
    }
    identity_clear(&identity);
}

static bool open_spool(struct proxy *proxy)
{
    const struct config *config = proxy->rt.config;
    if (config->pool.publish_buffer_size == 0) {
        LOG(LOG_WARN, "buffering_off", LOG_T("reason", "pool.publish_buffer_size is 0"));
        if (!spooler_exists(config))
            return true;
    }
    struct failure failure = {0};
    proxy->rt.spooler = spooler_open(&proxy->rt.loop, config, found_queue, proxy, &failure);
    if (!proxy->rt.spooler) {
        LOG(LOG_ERROR, "spool_unusable", LOG_T("path", config->spool.path),
            LOG_T("reason", failure.text));
        return false;
    }
    uint64_t messages = 0;
    for (struct list *n = proxy->pools.queues.all.next; n != &proxy->pools.queues.all; n = n->next)
        messages += LIST_ENTRY(n, struct queue, node)->backlog.waiting;
    LOG(LOG_INFO, "spool_opened", LOG_T("path", config->spool.path), LOG_N("messages", messages));
    return true;
}

static void connect_pools(struct proxy *proxy)
{
    for (unsigned i = 0; i < proxy->upstreams.targets.count; i++) {
        const struct config_upstream *url = proxy->upstreams.targets.list[i].url;
        if (!url->user)
            continue;
        const char *vhost = url->vhost ? url->vhost : "/";
        const char *password = url->password ? url->password : "";
        struct identity identity;
        identity_init(&identity, url->user, password);
        struct pool *pool = pool_find(&proxy->pools, &identity, password, vhost);
        if (!pool)
            pool = pool_new(&proxy->pools, &identity, password, vhost, LOGIN_UNKNOWN);
        pool->pinned = true;
        identity_clear(&identity);
    }
    for (struct list *n = proxy->pools.all.next; n != &proxy->pools.all; n = n->next) {
        struct pool *pool = LIST_ENTRY(n, struct pool, node);
        if (pool->pinned || queue_has_backlog(pool->queue))
            connections_want(pool);
    }
}

static void init_handles(struct proxy *proxy)
{
    ENSURE(uv_loop_init(&proxy->rt.loop) == 0);
    net_init(&proxy->rt.net, &proxy->rt.loop);
    listener_init(&proxy->plain, &proxy->rt, &proxy->clients, NULL);
    listener_init(&proxy->tls, &proxy->rt, &proxy->clients, &proxy->certificates);
    ENSURE(uv_timer_init(&proxy->rt.loop, &proxy->tick) == 0);
    ENSURE(uv_prepare_init(&proxy->rt.loop, &proxy->before_poll) == 0);
    ENSURE(uv_idle_init(&proxy->rt.loop, &proxy->not_done) == 0);
    ENSURE(uv_signal_init(&proxy->rt.loop, &proxy->sigterm) == 0);
    ENSURE(uv_signal_init(&proxy->rt.loop, &proxy->sigint) == 0);
    ENSURE(uv_signal_init(&proxy->rt.loop, &proxy->sighup) == 0);
    proxy->tick.data = proxy->before_poll.data = proxy;
    proxy->sigterm.data = proxy->sigint.data = proxy->sighup.data = proxy;
    upstreams_init(&proxy->upstreams, &proxy->rt);
    pools_init(&proxy->pools, &proxy->upstreams, &session_pools_events);
    logins_init(&proxy->logins, &proxy->pools);
    clients_init(&proxy->clients, &proxy->logins, &session_handler);
    srandom((unsigned)(uv_hrtime() ^ (uint64_t)uv_os_getpid()));
}

static void socket_unusable(const char *name, const char *reason)
{
    LOG(LOG_ERROR, "socket_unusable", LOG_T("name", name ? name : "LISTEN_FDS"),
        LOG_T("reason", reason));
}

static void socket_unused(const char *name, const char *address)
{
    LOG(LOG_WARN, "socket_unused", LOG_T("name", name), LOG_T("address", address),
        LOG_T("reason", "listen.* and admin.* name no such address and port"));
}

static bool read_certificates(struct proxy *proxy)
{
    struct certificates certificates;
    char why[CERTIFICATES_WHY_MAX];
    if (!certificates_read(&certificates, proxy->rt.config, why, sizeof why)) {
        LOG(LOG_ERROR, "tls_unusable", LOG_T("reason", why));
        return false;
    }
    certificates_adopt(&proxy->certificates, &certificates, proxy->rt.config, &proxy->upstreams);
    return true;
}

static bool start_spool(struct proxy *proxy)
{
    bool is_open = open_spool(proxy);
    /* Before "listening": whoever reads that may send one. From here the loop serves them. */
    uv_signal_start(&proxy->sigterm, on_stop_signal, SIGTERM);
    uv_signal_start(&proxy->sigint, on_stop_signal, SIGINT);
    return is_open;
}

/* All of them, also behind one that fails: what is left of the service manager's sockets is named,
 * and may be what has the port. */
static bool open_ports(struct proxy *proxy)
{
    bool are_open = proxy->side->open(proxy, &proxy->side_self);
    are_open = listener_start(&proxy->tls) && are_open;
    are_open = listener_start(&proxy->plain) && are_open;
    service_close_sockets(socket_unused);
    return are_open;
}

/* One may have come since before the configuration was read (main.c). */
static void serve_sighup(struct proxy *proxy)
{
    sigset_t sighup;
    sigemptyset(&sighup);
    sigaddset(&sighup, SIGHUP);
    uv_signal_start(&proxy->sighup, on_sighup, SIGHUP);
    pthread_sigmask(SIG_UNBLOCK, &sighup, NULL);
}

static bool start(struct proxy *proxy)
{
    serve_sighup(proxy);
    if (!listener_take_descriptors(proxy->rt.config) || !read_certificates(proxy) ||
        !start_spool(proxy) || !open_ports(proxy))
        return false;
    uv_prepare_start(&proxy->before_poll, on_before_poll);
    proxy->ticked_ms = runtime_now(&proxy->rt);
    uv_timer_start(&proxy->tick, on_tick, tick_ms(), tick_ms());
    connect_pools(proxy);
    lookup_begin(&proxy->lookup, &proxy->upstreams);
    service_ready();
    return true;
}

static void deinit(struct proxy *proxy)
{
    ENSURE(uv_loop_close(&proxy->rt.loop) == 0);
    net_close(&proxy->rt.net);
    upstreams_deinit(&proxy->upstreams);
    certificates_free(&proxy->certificates);
    handles_deinit();
    slab_trim();
}

int proxy_run(struct config *config, const struct config_sources *sources,
              const struct proxy_side *side)
{
    struct proxy proxy = {
        .rt = {.config = config, .serves = true}, .sources = sources, .side = side};
    signal(SIGPIPE, SIG_IGN);
    service_take_sockets(socket_unusable);
    init_handles(&proxy);
    if (!start(&proxy)) {
        proxy.exit_status = 1;
        shutdown_at_once(&proxy);
    }
    uv_run(&proxy.rt.loop, UV_RUN_DEFAULT);
    deinit(&proxy);
    return proxy.exit_status;
}
