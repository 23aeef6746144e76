#include "plan.h"

#include <stdio.h>
#include <string.h>

#include "agenda.h"
#include "base/assert.h"
#include "client.h"
#include "disk.h"
#include "history.h"
#include "ledger.h"
#include "life.h"
#include "prng.h"
#include "rabbit.h"

/* ---- what can happen ---- */

struct entry;

enum moment {
    MEANWHILE,
    AT_FIRST, /* before the proxy starts */
    AT_LAST,  /* when all else is well again */
};

struct happening {
    const char *name;
    unsigned weight;
    void (*begins)(struct entry *);
    void (*passes)(struct entry *); /* NULL: it is over at once */
    uint64_t most_us;               /* how long it lasts */
    enum moment when;
};

struct entry {
    const struct happening *what;
    uint64_t at_us, lasts_us, seed;
    struct prng prng;
    unsigned which; /* as `begins` likes */
    bool is_due;    /* AT_LAST, and not left out */
    struct event begin, pass;
    struct event comes, looks; /* of a probe */
    unsigned probe;            /* the client */
};

static void client_comes(struct entry *e)
{
    static const unsigned weights[CLIENT_KINDS] = {
        [CLIENT_JOB] = 25,        [CLIENT_STREAM] = 15,   [CLIENT_CONFIRMING] = 25,
        [CLIENT_TRANSACTION] = 6, [CLIENT_DECLARING] = 8, [CLIENT_CONSUMING] = 5,
        [CLIENT_DYING] = 8,       [CLIENT_DEAF] = 5,      [CLIENT_STRANGER] = 3};
    unsigned kind = 0;
    uint64_t at = prng_below(&e->prng, 100);
    while (at >= weights[kind])
        at -= weights[kind++];
    client_start(kind, e->seed);
}

static void rabbit_dies(struct entry *e)
{
    (void)e;
    rabbit_kill();
}

static void rabbit_leaves(struct entry *e)
{
    (void)e;
    rabbit_stop();
}

static void rabbit_comes(struct entry *e)
{
    (void)e;
    rabbit_start();
}

static void rabbit_hangs(struct entry *e)
{
    (void)e;
    rabbit_freeze(true);
}

static void rabbit_goes_on(struct entry *e)
{
    (void)e;
    rabbit_freeze(false);
}

static void alarm_begins(struct entry *e)
{
    (void)e;
    rabbit_alarm(true);
}

static void alarm_ends(struct entry *e)
{
    (void)e;
    rabbit_alarm(false);
}

static void queue_is_silent(struct entry *e)
{
    e->which = (unsigned)prng_below(&e->prng, DEST_QUEUES);
    rabbit_queue(e->which, QUEUE_SILENT);
}

static void queue_is_full(struct entry *e)
{
    e->which = (unsigned)prng_below(&e->prng, DEST_QUEUES);
    rabbit_queue(e->which, QUEUE_NACKS);
}

static void queue_is_well(struct entry *e)
{
    rabbit_queue(e->which, QUEUE_CONFIRMS);
}

static void confirms_are_slow(struct entry *e)
{
    rabbit_delay(prng_between(&e->prng, 10000, 4000000));
}

static void confirms_are_fast(struct entry *e)
{
    (void)e;
    rabbit_delay(5000);
}

static void network_is_cut(struct entry *e)
{
    rabbit_cut(prng_percent(&e->prng, 40));
}

static void rabbit_errs(struct entry *e)
{
    static const uint16_t codes[] = {320, 541, 501, 506};
    rabbit_fault(codes[prng_below(&e->prng, 4)]);
}

static void proxy_is_killed(struct entry *e)
{
    life_set_pause_us(prng_below(&e->prng, 2000000));
    life_kill(prng_percent(&e->prng, 30) ? 0 : prng_between(&e->prng, 1, 40), false);
}

static void power_is_cut(struct entry *e)
{
    life_set_pause_us(prng_below(&e->prng, 2000000));
    life_kill(prng_percent(&e->prng, 30) ? 0 : prng_between(&e->prng, 1, 40), true);
}

static void proxy_stops(struct entry *e)
{
    life_set_pause_us(prng_below(&e->prng, 2000000));
    life_stop();
}

static void proxy_reloads(struct entry *e)
{
    static const char *const settings[] = {"spool.mode=always",
                                           "spool.mode=slow",
                                           "spool.mode=outage",
                                           "pool.window=1",
                                           "pool.window=8",
                                           "pool.window=auto",
                                           "drain.window=1",
                                           "drain.window=auto",
                                           "pool.confirm_transient=no",
                                           "pool.confirm_transient=yes",
                                           "pool.publish_buffer_size=20",
                                           "pool.publish_buffer_size=10000"};
    const char *setting = settings[prng_below(&e->prng, sizeof settings / sizeof settings[0])];
    if (strcmp(setting, "pool.confirm_transient=no") == 0)
        ledger_forgives_transient();
    history_note("plan: %s", setting);
    life_set(setting);
    life_reload();
}

static void disk_fills(struct entry *e)
{
    (void)e;
    history_note("disk: full");
    disk_faults.is_full = true;
}

static void disk_errs(struct entry *e)
{
    (void)e;
    history_note("disk: writes fail");
    disk_faults.writes_fail = true;
}

static void syncs_fail(struct entry *e)
{
    disk_faults.syncs_to_fail = (unsigned)prng_between(&e->prng, 1, 3);
}

static void disk_is_slow(struct entry *e)
{
    history_note("disk: slow");
    disk_faults.sync_us = prng_between(&e->prng, 10000, 3000000);
}

static void disk_is_well(struct entry *e)
{
    (void)e;
    history_note("disk: well");
    disk_faults.is_full = disk_faults.writes_fail = false;
    disk_faults.syncs_to_fail = 0;
    disk_faults.sync_us = 2000;
}

static const struct happening happenings[] = {
    {"a client", 140, client_comes, NULL, 0, MEANWHILE},
    {"RabbitMQ is killed", 6, rabbit_dies, rabbit_comes, 8000000, MEANWHILE},
    {"RabbitMQ stops", 3, rabbit_leaves, rabbit_comes, 8000000, MEANWHILE},
    {"RabbitMQ hangs", 3, rabbit_hangs, rabbit_goes_on, 20000000, MEANWHILE},
    {"alarm", 2, alarm_begins, alarm_ends, 8000000, MEANWHILE},
    {"a queue is silent", 4, queue_is_silent, queue_is_well, 20000000, MEANWHILE},
    {"a queue is full", 3, queue_is_full, queue_is_well, 8000000, MEANWHILE},
    {"confirms are slow", 4, confirms_are_slow, confirms_are_fast, 10000000, MEANWHILE},
    {"the network is cut", 6, network_is_cut, NULL, 0, MEANWHILE},
    {"RabbitMQ closes a connection", 3, rabbit_errs, NULL, 0, MEANWHILE},
    {"the proxy is killed", 6, proxy_is_killed, NULL, 0, MEANWHILE},
    {"the power is cut", 3, power_is_cut, NULL, 0, MEANWHILE},
    {"the proxy is stopped", 3, proxy_stops, NULL, 0, MEANWHILE},
    {"the proxy is reloaded", 4, proxy_reloads, NULL, 0, MEANWHILE},
    {"the disk is full", 2, disk_fills, disk_is_well, 5000000, MEANWHILE},
    {"the disk fails", 2, disk_errs, disk_is_well, 5000000, MEANWHILE},
    {"syncs fail", 2, syncs_fail, NULL, 0, MEANWHILE},
    {"the disk is slow", 3, disk_is_slow, disk_is_well, 8000000, MEANWHILE},
};
enum { HAPPENINGS = sizeof happenings / sizeof happenings[0] };

/* ---- consumers ---- */

static void worker_comes(struct entry *e)
{
    client_start(CLIENT_WORKER, e->seed);
}

static void consumers_are_cancelled(struct entry *e)
{
    (void)e;
    rabbit_cancel_all();
}

static void unruly_one_comes(struct entry *e)
{
    client_start(CLIENT_UNRULY, e->seed);
}

static void hasty_one_comes(struct entry *e)
{
    client_start(CLIENT_HASTY, e->seed);
}

/* ---- nodes of a cluster ---- */

static void are_two_nodes(struct entry *e)
{
    static const char *const urls[] = {"upstream.url=amqp://127.0.0.1:5672,amqp://127.0.0.1:5682",
                                       "upstream.url=amqp://127.0.0.1:5682,amqp://127.0.0.1:5672"};
    rabbit_use_nodes(RABBIT_NODES);
    life_set(urls[prng_below(&e->prng, 2)]);
}

static void node_dies(struct entry *e)
{
    e->which = (unsigned)prng_below(&e->prng, RABBIT_NODES);
    rabbit_node_kill(e->which);
}

static void node_leaves(struct entry *e)
{
    e->which = (unsigned)prng_below(&e->prng, RABBIT_NODES);
    rabbit_node_stop(e->which);
}

static void node_hangs(struct entry *e)
{
    e->which = (unsigned)prng_below(&e->prng, RABBIT_NODES);
    rabbit_node_freeze(e->which, prng_percent(&e->prng, 50));
}

static void node_comes(struct entry *e)
{
    rabbit_node_start(e->which);
}

static void node_is_lost(struct entry *e)
{
    e->which = (unsigned)prng_below(&e->prng, RABBIT_NODES);
    rabbit_node_lose(e->which, prng_percent(&e->prng, 50));
}

/* ---- rights and limits ---- */

static void password_changes(struct entry *e)
{
    rabbit_change_password((unsigned)prng_below(&e->prng, LOGINS));
}

static void vhost_goes(struct entry *e)
{
    e->which = (unsigned)prng_below(&e->prng, LOGINS);
    rabbit_delete_vhost(e->which);
}

static void connections_are_limited(struct entry *e)
{
    e->which = (unsigned)prng_below(&e->prng, LOGINS);
    rabbit_limit(e->which, (unsigned)prng_between(&e->prng, 1, 3), 0);
}

static void channels_are_limited(struct entry *e)
{
    e->which = (unsigned)prng_below(&e->prng, LOGINS);
    rabbit_limit(e->which, 0, (unsigned)prng_between(&e->prng, 1, 5));
}

static void rights_are_back(struct entry *e)
{
    rabbit_restore_rights(e->which);
}

static void queue_is_forbidden(struct entry *e)
{
    e->which = (unsigned)prng_below(&e->prng, DEST_QUEUES);
    rabbit_forbid(e->which, true);
}

static void queue_is_allowed(struct entry *e)
{
    rabbit_forbid(e->which, false);
}

static const struct happening reading[] = {
    {"a worker", 100, worker_comes, NULL, 0, MEANWHILE},
    {"consumers are cancelled", 8, consumers_are_cancelled, NULL, 0, MEANWHILE},
};

static const struct happening nodes[] = {
    {"there are two nodes", 40, are_two_nodes, NULL, 0, AT_FIRST},
    {"a node is killed", 20, node_dies, node_comes, 10000000, MEANWHILE},
    {"a node stops", 15, node_leaves, node_comes, 10000000, MEANWHILE},
    {"a node hangs", 15, node_hangs, node_comes, 20000000, MEANWHILE},
    {"a node is lost", 10, node_is_lost, NULL, 0, MEANWHILE},
};

static const struct happening rights[] = {
    {"a password changes", 20, password_changes, NULL, 0, MEANWHILE},
    {"a vhost is deleted", 20, vhost_goes, rights_are_back, 8000000, MEANWHILE},
    {"connections are limited", 20, connections_are_limited, rights_are_back, 10000000, MEANWHILE},
    {"channels are limited", 20, channels_are_limited, rights_are_back, 10000000, MEANWHILE},
    {"a queue is forbidden", 20, queue_is_forbidden, queue_is_allowed, 8000000, MEANWHILE},
};

static const struct happening offences[] = {
    {"an unruly client", 1, unruly_one_comes, NULL, 0, MEANWHILE}};

/* ---- what RabbitMQ is like ---- */

static void words_are_odd(struct entry *e)
{
    (void)e;
    rabbit_speak_oddly(true);
}

static void words_are_plain(struct entry *e)
{
    (void)e;
    rabbit_speak_oddly(false);
}

static void channels_open_slowly(struct entry *e)
{
    rabbit_open_slowly(prng_between(&e->prng, 500000, 8000000));
}

/* And the proxy is told to wait for it. */
static void channels_always_open_slowly(struct entry *e)
{
    life_set("pool.confirm_timeout=60s");
    channels_open_slowly(e);
}

static void channels_open_at_once(struct entry *e)
{
    (void)e;
    rabbit_open_slowly(0);
}

static void frames_are_small(struct entry *e)
{
    (void)e;
    rabbit_allow_small_frames(true);
}

static void frames_are_as_usual(struct entry *e)
{
    (void)e;
    rabbit_allow_small_frames(false);
}

static void queue_breaks_connections(struct entry *e)
{
    e->which = (unsigned)prng_below(&e->prng, DEST_QUEUES);
    rabbit_break_over(e->which, true);
}

static void queue_breaks_nothing(struct entry *e)
{
    rabbit_break_over(e->which, false);
}

static const struct happening moods[] = {
    {"RabbitMQ's words are odd", 20, words_are_odd, words_are_plain, 20000000, MEANWHILE},
    {"channels open slowly", 20, channels_open_slowly, channels_open_at_once, 20000000, MEANWHILE},
    {"channels always open slowly", 10, channels_always_open_slowly, NULL, 0, AT_FIRST},
    {"RabbitMQ's frames are small", 10, frames_are_small, frames_are_as_usual, 8000000, MEANWHILE},
    {"a queue breaks connections", 20, queue_breaks_connections, queue_breaks_nothing, 8000000,
     false},
};

/* ---- other settings ---- */

static void drains_are_slow(struct entry *e)
{
    static const char *const rates[] = {"drain.rate=3", "drain.rate=20", "drain.rate=1000"};
    const char *rate = rates[prng_below(&e->prng, 3)];
    history_note("plan: %s", rate);
    life_set(rate);
    life_reload();
}

static void drains_are_fast(struct entry *e)
{
    (void)e;
    history_note("plan: drain.rate=0");
    life_set("drain.rate=0");
    life_reload();
}

static void there_are_few_channels(struct entry *e)
{
    life_set(prng_percent(&e->prng, 50) ? "pool.max_channels=2" : "pool.max_channels=4");
}

static void spool_is_small(struct entry *e)
{
    (void)e;
    life_set("spool.max_size=1MiB");
}

static const struct happening settings[] = {
    {"drains are slow", 60, drains_are_slow, drains_are_fast, 10000000, MEANWHILE},
    {"a connection has few channels", 20, there_are_few_channels, NULL, 0, AT_FIRST},
    {"the spool is small", 20, spool_is_small, NULL, 0, AT_FIRST},
};

static void crowd_guesses(struct entry *e)
{
    enum { CROWD = 40 };
    for (unsigned i = 0; i < CROWD; i++)
        client_start(CLIENT_GUESSER, e->seed + i);
}

static const struct happening crowds[] = {
    {"a crowd guesses passwords", 1, crowd_guesses, NULL, 0, MEANWHILE}};

/* ---- one queue that is silent, in a world that is well ---- */

/* Together less than the time after which the proxy asks a silent one again. */
enum { PROBE_COMES_US = 3000000, PROBE_ENDS_US = 14000000 };

/* What was published while nothing was buffered keeps its place: there is no copy to wait instead.
 */
static void probe_is_over(void *arg)
{
    struct entry *e = arg;
    CHECK(e->probe == 0 || !client_is_there(e->probe) || ledger_does_forgive_unheard(),
          "P7: a message to a queue that is well waits for %u s, because another is silent",
          PROBE_ENDS_US / 1000000);
    queue_is_well(e);
}

static void probe_comes(void *arg)
{
    struct entry *e = arg;
    enum destination other = (e->which + 1) % DEST_QUEUES;
    e->probe = client_start_to(CLIENT_PROBE, e->seed + 1, 0, other);
    agenda_in(&e->looks, PROBE_ENDS_US, probe_is_over, e);
}

static void queue_stays_silent(struct entry *e)
{
    queue_is_silent(e);
    /* It is not about places in the spool, or patience with RabbitMQ. */
    life_set("pool.publish_buffer_size=10000");
    life_set("pool.confirm_timeout=2s");
    rabbit_open_slowly(0);
    life_reload();
    client_start_to(CLIENT_FLOOD, e->seed, 0, e->which);
    agenda_in(&e->comes, PROBE_COMES_US, probe_comes, e);
}

static const struct happening silence[] = {
    {"a queue stays silent", 1, queue_stays_silent, NULL, 0, AT_LAST}};

static const struct happening haste[] = {
    {"a hasty client", 1, hasty_one_comes, NULL, 0, MEANWHILE}};

/* ---- syncs by time ---- */

static void syncs_are_by_time(struct entry *e)
{
    static const char *const intervals[] = {"spool.sync_interval=50ms", "spool.sync_interval=200ms",
                                            "spool.sync_interval=1s"};
    life_set("spool.sync=interval");
    life_set(intervals[prng_below(&e->prng, 3)]);
}

/* From the next start on. */
static void set_sync(const char *setting)
{
    history_note("plan: %s", setting);
    life_set(setting);
}

static void syncs_are_by_commit(struct entry *e)
{
    (void)e;
    set_sync("spool.sync=commit");
}

static void syncs_are_by_time_again(struct entry *e)
{
    (void)e;
    set_sync("spool.sync=interval");
}

static const struct happening syncs[] = {
    {"syncs are by time", 60, syncs_are_by_time, NULL, 0, AT_FIRST},
    {"the power is cut", 30, power_is_cut, NULL, 0, MEANWHILE},
    {"syncs are by commit", 10, syncs_are_by_commit, syncs_are_by_time_again, 8000000, MEANWHILE},
};

/* What one process has not synced the next one has to, when it starts. */
static void nothing_is_synced(struct entry *e)
{
    (void)e;
    set_sync("spool.sync=never");
}

static const struct happening no_syncs[] = {
    {"nothing is synced", 30, nothing_is_synced, syncs_are_by_commit, 8000000, MEANWHILE},
    {"the proxy is killed", 30, proxy_is_killed, NULL, 0, MEANWHILE},
    {"the power is cut", 30, power_is_cut, NULL, 0, MEANWHILE},
};

/* ---- nothing is buffered for a while ---- */

static void buffer_is_off(struct entry *e)
{
    (void)e;
    history_note("plan: pool.publish_buffer_size=0");
    ledger_forgives_unheard();
    life_set("spool.mode=outage");
    life_set("pool.publish_buffer_size=0");
    life_reload();
}

static void buffer_is_on(struct entry *e)
{
    (void)e;
    history_note("plan: pool.publish_buffer_size=10000");
    life_set("pool.publish_buffer_size=10000");
    life_reload();
}

static const struct happening buffers[] = {
    {"nothing is buffered", 1, buffer_is_off, buffer_is_on, 8000000, MEANWHILE}};

/* Each is drawn apart, so that a new one leaves those before it as they are. */
static const struct wave {
    const struct happening *from;
    unsigned count;
    uint64_t stream;  /* of the seed's numbers */
    unsigned most;    /* entries; one less is the most there are */
    unsigned percent; /* of the runs that have any */
} waves[] = {
    {reading, sizeof reading / sizeof reading[0], 10, 16, 100},
    {nodes, sizeof nodes / sizeof nodes[0], 12, 8, 30},
    {rights, sizeof rights / sizeof rights[0], 13, 8, 30},
    {offences, 1, 14, 8, 40},
    {haste, 1, 16, 10, 40},
    {moods, sizeof moods / sizeof moods[0], 17, 6, 30},
    {settings, sizeof settings / sizeof settings[0], 18, 6, 30},
    {silence, 1, 19, 2, 20},
    {crowds, 1, 20, 3, 15},
    {syncs, sizeof syncs / sizeof syncs[0], 21, 6, 30},
    {buffers, 1, 22, 4, 20},
    {no_syncs, sizeof no_syncs / sizeof no_syncs[0], 23, 6, 15},
};
enum { WAVES = sizeof waves / sizeof waves[0] };

/* ---- the plan ---- */

static struct {
    struct entry entries[PLAN_MAX];
    unsigned count;
    uint64_t length_us;
} plan;

static const struct happening *choose(struct prng *p, const struct happening *from, unsigned count)
{
    unsigned all = 0, i = 0;
    for (unsigned k = 0; k < count; k++)
        all += from[k].weight;
    uint64_t at = prng_below(p, all);
    while (at >= from[i].weight)
        at -= from[i++].weight;
    return &from[i];
}

static void enter(struct prng *p, const struct happening *what)
{
    ENSURE(plan.count < PLAN_MAX);
    struct entry *e = &plan.entries[plan.count++];
    e->what = what;
    e->at_us = prng_below(p, plan.length_us);
    e->lasts_us = e->what->most_us ? prng_below(p, e->what->most_us) : 0;
    e->seed = prng_next(p);
    e->prng = prng_of(e->seed, 8);
}

unsigned plan_make(uint64_t seed)
{
    struct prng p = prng_of(seed, 7);
    memset(&plan, 0, sizeof plan);
    uint64_t count = prng_between(&p, 4, prng_percent(&p, 50) ? 20 : 80);
    plan.length_us = prng_between(&p, 1000000, 30000000);
    for (; count > 0; count--)
        enter(&p, choose(&p, happenings, HAPPENINGS));
    for (unsigned i = 0; i < WAVES; i++) {
        const struct wave *w = &waves[i];
        struct prng q = prng_of(seed, w->stream);
        bool has_any = w->percent == 100 || prng_percent(&q, w->percent);
        for (count = has_any ? prng_below(&q, w->most) : 0; count > 0; count--)
            enter(&q, choose(&q, w->from, w->count));
    }
    return plan.count;
}

static void pass(void *arg)
{
    struct entry *e = arg;
    e->what->passes(e);
}

static void begin(void *arg)
{
    struct entry *e = arg;
    e->what->begins(e);
    if (e->what->passes)
        agenda_in(&e->pass, e->lasts_us, pass, e);
}

void plan_begin(const bool left_out[PLAN_MAX])
{
    for (unsigned i = 0; i < plan.count; i++)
        if (!left_out[i] && plan.entries[i].what->when == AT_LAST)
            plan.entries[i].is_due = true;
        else if (!left_out[i] && plan.entries[i].what->when == MEANWHILE)
            agenda_in(&plan.entries[i].begin, plan.entries[i].at_us, begin, &plan.entries[i]);
        else if (!left_out[i])
            begin(&plan.entries[i]);
}

void plan_end(void)
{
    for (unsigned i = 0; i < plan.count; i++) {
        struct entry *e = &plan.entries[i];
        agenda_cancel(&e->begin);
        if (!agenda_has(&e->pass))
            continue;
        agenda_cancel(&e->pass);
        e->what->passes(e);
    }
    for (unsigned i = 0; i < plan.count; i++)
        if (plan.entries[i].is_due)
            begin(&plan.entries[i]);
    disk_faults.syncs_to_fail = 0;
}

bool plan_is_over(void)
{
    bool is_over = true;
    for (unsigned i = 0; i < plan.count; i++)
        is_over =
            is_over && !agenda_has(&plan.entries[i].comes) && !agenda_has(&plan.entries[i].looks);
    return is_over;
}

void plan_log_in(void)
{
    for (unsigned i = 0; i < LOGINS; i++)
        if (rabbit_has_new_password(i))
            client_start_as(CLIENT_JOB, i, i);
}

uint64_t plan_length_us(void)
{
    return plan.length_us;
}

const char *plan_name(unsigned entry)
{
    static char text[128];
    const struct entry *e = &plan.entries[entry];
    snprintf(text, sizeof text, "at %llu.%03llu s %s", (unsigned long long)(e->at_us / 1000000),
             (unsigned long long)(e->at_us / 1000 % 1000), e->what->name);
    return text;
}
