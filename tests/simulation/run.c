#include "run.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agenda.h"
#include "amqp/wire.h"
#include "amqpbuf/spool_reader.h"
#include "base/assert.h"
#include "client.h"
#include "deliveries.h"
#include "history.h"
#include "leftovers.h"
#include "life.h"
#include "link.h"
#include "pool/queue.h"
#include "prng.h"
#include "proxy/proxy.h"
#include "rabbit.h"
#include "sim_uv.h"

enum {
    BEGAN_US = 1000000,
    LOOK_US = 250000,
    PATIENCE_US = 240000000, /* until all is done, once nothing is broken any more */
    REST_US = 1000000,
    CHANNELS = 200, /* that a drain may need: two for each message that it rejects */
    LOG_IN_US = 10000000,
    TALKATIVE = 8, /* one run of so many writes all that the log may say */
};

static struct {
    struct event look;
    uint64_t healed_us;    /* 0: things still happen */
    uint64_t quiet_us;     /* since when nobody waits; 0: somebody does */
    uint64_t logged_in_us; /* when plan_log_in was called last */
    unsigned descriptors;  /* at the beginning */
} run;

/* ---- how it is set up ---- */

static void empty(const char *folder)
{
    DIR *dir = opendir(folder);
    ENSURE(dir);
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL)
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
}

static void set_one_of(struct prng *p, const char *const *values, unsigned count)
{
    life_set(values[prng_below(p, count)]);
}
#define SET_ONE_OF(p, ...)                                                                         \
    set_one_of(p, (const char *const[]){__VA_ARGS__},                                              \
               sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static void configure(uint64_t seed, bool prints)
{
    struct prng p = prng_of(seed, 9);
    SET_ONE_OF(&p, "pool.publish_buffer_size=10000", "pool.publish_buffer_size=30");
    SET_ONE_OF(&p, "pool.window=auto", "pool.window=1", "pool.window=4", "pool.window=16");
    SET_ONE_OF(&p, "drain.window=auto", "drain.window=1", "drain.window=4");
    SET_ONE_OF(&p, "pool.upstreams=1", "pool.upstreams=2");
    SET_ONE_OF(&p, "pool.confirm_timeout=2s", "pool.confirm_timeout=10s");
    SET_ONE_OF(&p, "spool.mode=outage", "spool.mode=outage", "spool.mode=always",
               "spool.mode=slow");
    SET_ONE_OF(&p, "spool.overflow=disconnect", "spool.overflow=block", "spool.overflow=reject");
    SET_ONE_OF(&p, "listen.shutdown_timeout=2s", "listen.shutdown_timeout=10s");
    life_set("drain.unroutable_wait=2s");
    life_set("drain.nack_limit=1000");
    life_set("upstream.heartbeat=10s");
    life_set("spool.max_size=64MiB");
    life_set(prints || seed % TALKATIVE == 0 ? "log.level=info" : "log.level=error");
}

/* ---- is it over? ---- */

static void no_queue_is_too_long(void)
{
    const struct proxy *proxy = life_proxy();
    for (const struct list *n = proxy ? proxy->pools.queues.all.next : NULL;
         proxy && n != &proxy->pools.queues.all; n = n->next) {
        uint64_t waiting = LIST_ENTRY(n, const struct queue, node)->backlog.waiting;
        CHECK(waiting <= life_largest_buffer(), "P5: %llu messages wait in a queue of %u",
              (unsigned long long)waiting, life_largest_buffer());
    }
}

/* Who or what is not done yet; NULL: all is. */
static const char *who_waits(void)
{
    const struct proxy *proxy = life_proxy();
    if (client_count() > 0)
        return client_waits_for();
    if (!plan_is_over())
        return "a probe is to come";
    if (!proxy || proxy->stage != PROXY_RUNNING)
        return "the proxy is not there";
    return leftovers_in(proxy);
}

static void look(void *arg)
{
    (void)arg;
    uint64_t now = agenda_now_us();
    no_queue_is_too_long();
    agenda_in(&run.look, LOOK_US, look, NULL);
    if (!run.healed_us) {
        if (now < BEGAN_US + plan_length_us())
            return;
        plan_end();
        life_kill_never();
        history_note("all is well again");
        run.healed_us = run.logged_in_us = now;
    }
    const char *waits = who_waits();
    uint64_t patience_us = PATIENCE_US + CHANNELS * rabbit_opens_us();
    CHECK(!waits || now - run.healed_us < patience_us, "P5: %s, %llu s after all was well again",
          waits, (unsigned long long)patience_us / 1000000);
    if (waits) {
        if (now - run.logged_in_us > LOG_IN_US) {
            run.logged_in_us = now;
            plan_log_in();
        }
        run.quiet_us = 0;
    } else if (!run.quiet_us) {
        run.quiet_us = now;
    } else if (now - run.quiet_us > REST_US) {
        deliveries_settle();
        agenda_cancel(&run.look);
        life_finish();
    }
}

/* ---- what is left ---- */

static bool found_rejected(void *arg, const struct reader_record *record)
{
    (void)arg;
    if (record->kind == RECORD_PUBLISH)
        ledger_found_rejected(ledger_read_body(record->body, record->body_size),
                              record->rejection.code);
    return true;
}

static void found_damaged(void *arg, uint32_t queue, uint64_t seq, const char *what)
{
    (void)arg;
    history_fail("record %llu of queue %u is damaged: %s", (unsigned long long)seq, queue, what);
}

static bool look_at_queue(void *arg, const struct reader_queue *queue)
{
    struct failure failure = {0};
    CHECK(queue->messages == 0, "%llu messages wait in the spool at the end",
          (unsigned long long)queue->messages);
    CHECK(reader_records(arg, queue->id, 0, READER_BODIES | READER_REJECTED, found_rejected,
                         found_damaged, NULL, &failure) == STATUS_OK,
          "the spool cannot be read: %s", failure.text);
    return true;
}

static void look_at_spool(const char *folder)
{
    struct reader *reader;
    struct failure failure = {0};
    CHECK(reader_open(&reader, folder, &failure) == STATUS_OK, "the spool cannot be read: %s",
          failure.text);
    CHECK(reader_queues(reader, look_at_queue, reader, &failure) == STATUS_OK,
          "the spool cannot be read: %s", failure.text);
    reader_close(reader);
}

struct run_result run_seed(uint64_t seed, const char *spool, const bool left_out[PLAN_MAX],
                           bool prints)
{
    memset(&run, 0, sizeof run);
    run.descriptors = leftovers_descriptors();
    empty(spool);
    agenda_begin(BEGAN_US);
    history_begin(prints);
    ledger_begin();
    deliveries_begin();
    client_begin_all();
    life_begin(spool, seed);
    configure(seed, prints);
    rabbit_begin(seed);
    sim_uv_on_dial(rabbit_dial);
    plan_make(seed);
    plan_begin(left_out);
    agenda_in(&run.look, LOOK_US, look, NULL);
    life_run();
    rabbit_end();
    client_end_all();
    look_at_spool(spool);
    ledger_settle();
    struct run_result result = {
        .events = agenda_count(), .ends = life_ends() + rabbit_ends(), .messages = ledger_counts()};
    history_note("%u messages, %u of them told to be safe, %u refused, %u repeats, %u rejected",
                 result.messages.published, result.messages.safe, result.messages.refused,
                 result.messages.repeats, result.messages.rejected);
    life_end();
    ledger_end();
    while (agenda_run_next(UINT64_MAX)) /* what is freed by an event */
        ;
    deliveries_end();
    CHECK(link_ends() == 0, "%u ends of connections are left", link_ends());
    CHECK(leftovers_descriptors() == run.descriptors, "%u descriptors are open, and %u were before",
          leftovers_descriptors(), run.descriptors);
    agenda_end();
    result.hash = history_hash();
    return result;
}
