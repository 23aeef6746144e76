#include "proxy/lookup.h"

#include "proxy/login.h"
#include "proxy/proxy.h"
#include "proxy/upstream.h"

static void on_found(struct upstream *u)
{
    upstream_close(u);
}

static void on_unknown(struct upstream *u, const struct upstream_end *end);

static const struct upstream_events events = {
    .on_tuned = on_found,
    .on_failed = on_unknown,
};

static void look_up_next(struct proxy *proxy)
{
    if (proxy->lookup.left == 0 || proxy->stage != PROXY_RUNNING)
        return;
    proxy->lookup.left--;
    upstream_dial(proxy, NULL, NULL, NULL, NULL, 0, &events, proxy);
}

static void on_unknown(struct upstream *u, const struct upstream_end *end)
{
    (void)end; /* the log has it, and this broker is tried last from now on */
    look_up_next(u->owner);
}

void lookup_begin(struct proxy *proxy)
{
    if (!list_empty(&proxy->upstreams))
        return; /* a pool finds out */
    proxy->lookup = (struct lookup){proxy->targets.count, proxy_now(proxy)};
    look_up_next(proxy);
}

void lookup_again(struct proxy *proxy, uint64_t now_ms)
{
    if (now_ms - proxy->lookup.begun_ms >= proxy->config->upstream.reconnect_max_ms &&
        !login_is_possible(proxy))
        lookup_begin(proxy);
}
