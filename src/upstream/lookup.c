#include "upstream/lookup.h"

#include "peer/runtime.h"
#include "upstream/upstream.h"

static void on_found(struct upstream *u)
{
    upstream_close(u);
}

static void on_unknown(struct upstream *u, const struct upstream_end *end);

static const struct upstream_events events = {
    .on_tuned = on_found,
    .on_failed = on_unknown,
};

static void look_up_next(struct lookup *lookup)
{
    if (lookup->left == 0 || !runtime_serves(lookup->upstreams->rt))
        return;
    lookup->left--;
    upstream_dial(lookup->upstreams, NULL, NULL, NULL, NULL, 0, &events, lookup);
}

static void on_unknown(struct upstream *u, const struct upstream_end *end)
{
    (void)end; /* the log has it, and this broker is tried last from now on */
    look_up_next(u->owner);
}

void lookup_begin(struct lookup *lookup, struct upstreams *upstreams)
{
    *lookup = (struct lookup){.upstreams = upstreams, .begun_ms = runtime_now(upstreams->rt)};
    if (!list_empty(&upstreams->all))
        return; /* a pool finds out */
    lookup->left = upstreams->targets.count;
    look_up_next(lookup);
}

void lookup_again(struct lookup *lookup, uint64_t now_ms)
{
    const struct config *config = lookup->upstreams->rt->config;
    if (now_ms - lookup->begun_ms >= config->upstream.reconnect_max_ms)
        lookup_begin(lookup, lookup->upstreams);
}
