#include "life.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agenda.h"
#include "base/assert.h"
#include "base/slab.h"
#include "disk.h"
#include "history.h"
#include "ledger.h"
#include "machine.h"
#include "proxy/proxy.h"
#include "sim_uv.h"

enum {
    SETS_MAX = 32,
    RETRY_US = 1000000,
    LEAVES_US =
        1700000, /* from SIGTERM on: clients are told after a second, and have until 7/8 of two */
    DELETES_US = 10000000, /* a confirmed message is off a disk that works within this time */
    TURN_US = 10000,       /* of the spooler's thread, without syncs */
};

static struct {
    char *sets[SETS_MAX];
    unsigned set_count, largest_window, largest_buffer;
    bool any_window; /* one was `auto` */
    bool rejects;
    uint64_t seed, pause_us;
    unsigned ends;
    unsigned stops;      /* how often this process was told to */
    uint64_t stopped_us; /* when it was last */
    bool should_run, is_up;
    uint64_t kill_at, step; /* 0: not */
    bool power_cut;
    uint64_t sync_interval_us; /* of this process; 0: each commit is synced, or none */
    bool never_syncs;
    bool has_started; /* this process has what those before it left */
    bool is_unsynced; /* what those before it have written */
    bool is_spoiled;  /* of that the kernel has dropped some, over a sync that failed */
    struct event start;
    bool is_last;
} life;

/* The number that a setting gives this key; 0: it is about another, or no number ("auto"). */
static unsigned number_of(const char *setting, const char *key)
{
    const char *at = strstr(setting, key);
    return at ? (unsigned)atoi(at + strlen(key)) : 0;
}

static void note_limits(const char *setting)
{
    unsigned window = number_of(setting, ".window="),
             buffer = number_of(setting, ".publish_buffer_size=");
    life.rejects = life.rejects || strcmp(setting, "spool.overflow=reject") == 0;
    life.any_window = life.any_window || strstr(setting, ".window=auto");
    if (life.largest_window < window)
        life.largest_window = window;
    if (life.largest_buffer < buffer)
        life.largest_buffer = buffer;
}

bool life_rejects(void)
{
    return life.rejects;
}

unsigned life_largest_buffer(void)
{
    return life.largest_buffer;
}

unsigned life_largest_window(void)
{
    return life.any_window ? 0 : life.largest_window;
}

void life_set(const char *setting)
{
    note_limits(setting);
    size_t key = strcspn(setting, "=");
    unsigned i = 0;
    while (i < life.set_count && strncmp(life.sets[i], setting, key + 1) != 0)
        i++;
    ENSURE(i < SETS_MAX);
    if (i == life.set_count)
        life.set_count++;
    else
        free(life.sets[i]);
    life.sets[i] = strdup(setting);
    ENSURE(life.sets[i]);
}

static void start(void *arg)
{
    (void)arg;
    life.should_run = true;
}

void life_begin(const char *spool, uint64_t seed)
{
    char path[512];
    memset(&life, 0, sizeof life);
    life.seed = seed;
    life.should_run = true;
    snprintf(path, sizeof path, "spool.path=%s", spool);
    life_set(path);
    disk_begin(spool, seed);
    disk_on_step(life_step);
}

void life_end(void)
{
    agenda_cancel(&life.start);
    for (unsigned i = 0; i < life.set_count; i++)
        free(life.sets[i]);
    disk_end();
}

void life_set_pause_us(uint64_t us)
{
    life.pause_us = us;
}

unsigned life_ends(void)
{
    return life.ends;
}

bool life_is_leaving(void)
{
    return life.stops > 0;
}

bool life_is_hasty(void)
{
    return life.stops > 1;
}

bool life_is_overdue(void)
{
    return life.stops > 0 && agenda_now_us() - life.stopped_us >= LEAVES_US;
}

bool life_is_up(void)
{
    return life.is_up && !sim_uv_is_killed();
}

const struct proxy *life_proxy(void)
{
    /* The loop is the first member of the runtime, which is the first of the proxy. */
    return life_is_up() ? (const struct proxy *)sim_uv_loop() : NULL;
}

/* What it had heard of and could not write, the next one sends again. */
static void excuse_repeats(uint64_t late_us)
{
    uint64_t now = agenda_now_us();
    ledger_excuses_since(disk_was_broken() || now < late_us ? 0 : now - late_us);
}

/* spool.sync = interval: what came within the last one, and while a sync and a checkpoint took
 * their time; longer only where the disk did not let it sync. */
static void excuse_losses(void)
{
    if (life.sync_interval_us == 0)
        return;
    uint64_t failing_us = disk_failing_since_us(),
             since_us = failing_us ? failing_us : agenda_now_us(),
             late_us = life.sync_interval_us + 2 * disk_longest_sync_us() + TURN_US;
    ledger_may_lose_since(since_us > late_us ? since_us - late_us : 0);
}

/* With spool.sync = never a power cut may take the whole spool, until the next process that syncs
 * has started: by then it has synced what that one left. */
static bool outlives_a_power_cut(void)
{
    return !life.never_syncs && !life.is_spoiled &&
           (!life.is_unsynced || (life.has_started && !disk_was_broken()));
}

static void note_unsynced(void)
{
    life.is_spoiled = life.is_spoiled || (life.is_unsynced && disk_was_broken());
    life.is_unsynced = !outlives_a_power_cut();
}

static void end_now(void)
{
    if (!life_is_up())
        return;
    life.ends++;
    note_unsynced();
    excuse_repeats(DELETES_US);
    disk_freeze(life.power_cut);
    if (life.power_cut) {
        machine_boots();
        excuse_losses();
    }
    sim_uv_kill();
}

void life_step(void)
{
    life.has_started = life.has_started || (life.is_up && sim_uv_is_listening());
    if (!life.is_up || life.kill_at == 0 || ++life.step < life.kill_at)
        return;
    life.kill_at = 0;
    life.power_cut = life.power_cut && outlives_a_power_cut();
    history_note("proxy: %s", life.power_cut ? "power cut" : "killed");
    end_now();
}

void life_gave_up(void)
{
    history_note("proxy: ends itself");
    life.power_cut = false;
    end_now();
}

void life_kill(uint64_t steps, bool power_cut)
{
    if (!life_is_up())
        return;
    life.power_cut = power_cut;
    life.step = 0;
    life.kill_at = steps + 1;
    if (steps == 0)
        life_step();
}

void life_kill_never(void)
{
    life.kill_at = 0;
}

void life_stop(void)
{
    if (!life_is_up())
        return;
    history_note("proxy: told to stop");
    life.stops++;
    life.stopped_us = agenda_now_us();
    life.kill_at = 0;
    sim_uv_signal(SIGTERM);
}

void life_reload(void)
{
    if (!life_is_up())
        return;
    history_note("proxy: told to reload");
    sim_uv_signal(SIGHUP);
}

static bool open_nothing(struct proxy *proxy, void **side)
{
    (void)proxy;
    *side = NULL;
    return true;
}

static void close_nothing(void *side)
{
    (void)side;
}

/* A start without a buffer opens no spool: what waits there would go on waiting. */
static void buffer_from_the_start(void)
{
    for (unsigned i = 0; i < life.set_count; i++)
        if (strcmp(life.sets[i], "pool.publish_buffer_size=0") == 0)
            life_set("pool.publish_buffer_size=10000");
}

static void run_process(void)
{
    static const struct proxy_side side = {open_nothing, close_nothing};
    struct config config;
    buffer_from_the_start();
    struct config_sources sources = {
        .file = "/dev/null", .sets = (const char *const *)life.sets, .set_count = life.set_count};
    ENSURE(config_load(&config, &sources, stderr));
    log_init(config.log.level, config.log.format);
    life.sync_interval_us =
        config.spool.sync == CONFIG_SYNC_INTERVAL ? config.spool.sync_interval_ms * 1000ull : 0;
    life.has_started = false;
    life.never_syncs = config.spool.sync == CONFIG_SYNC_NEVER;
    sim_uv_begin(life.seed + life.ends);
    life.is_up = true;
    life.stops = 0;
    history_note("proxy: started");
    int status = proxy_run(&config, &sources, &side);
    life.is_up = false;
    life.should_run = false;
    if (!sim_uv_is_killed()) {
        life.ends++;
        note_unsynced();
        excuse_repeats(0);
        history_note("proxy: ended with %d", status);
    }
    sim_uv_end();
    CHECK(slab_live_bytes() == 0, "%llu bytes of messages are left behind the proxy's end",
          (unsigned long long)slab_live_bytes());
    config_free(&config);
    disk_thaw();
    agenda_in(&life.start, status ? RETRY_US : life.pause_us, start, NULL);
}

void life_run(void)
{
    while (!life.is_last || life.is_up) {
        if (life.should_run)
            run_process();
        else
            ENSURE(agenda_run_next(UINT64_MAX));
    }
}

void life_finish(void)
{
    life.is_last = true;
    life_stop();
}
