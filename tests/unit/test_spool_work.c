/* What the spooler's thread does with jobs, without the thread. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../support/spool_home.h"
#include "spooler/work.h"

static unsigned syncs;
static bool is_broken; /* the disk, from now on */

/* LMDB's, too. */
int fdatasync(int fd)
{
    syncs++;
    errno = EIO;
    return is_broken ? -1 : (int)syscall(SYS_fdatasync, fd);
}

static void reject(struct home *home, uint32_t queue, uint64_t first, uint64_t last)
{
    struct rejection why = {.code = 404, .text = "NOT_FOUND", .text_len = 9, .at_us = 1};
    home_begin(home);
    for (uint64_t seq = first; seq <= last; seq++)
        assert_int_equal(store_reject(home->store, queue, seq, &why, &home->failure), STATUS_OK);
    home_commit(home);
}

static uint64_t step_ns = UINT64_MAX;

static struct job *run(struct home *home, enum job_type type, uint32_t queue, uint64_t after,
                       uint64_t last)
{
    struct work work = {.store = home->store, .step_ns = step_ns};
    struct mail_chain batch = {0};
    struct job *job = job_new(type, queue, NULL, 0);
    job->rejected.after = after;
    job->rejected.last = last;
    job->rejected.max = 2;
    mail_append(&batch, &job->mail);
    gauges_init(&work.gauges);
    work_write(&work, &batch);
    gauges_deinit(&work.gauges);
    return job;
}

/* Publishes wait for the same commit: a step that has no time is one message. */
static void test_a_step_is_short(void **state)
{
    struct home *home = *state;
    uint32_t queue = home_fill(home, 4, 100);
    reject(home, queue, 1, 4);
    step_ns = 0;
    for (uint64_t seq = 1; seq <= 4; seq++) {
        struct job *job = run(home, seq % 2 ? JOB_RETRY : JOB_DISCARD, queue, seq - 1, UINT64_MAX);
        assert_int_equal(job->status, STATUS_OK);
        assert_int_equal(job->rejected.count, 1);
        assert_int_equal(job->rejected.reached, seq);
        job_free(job);
    }
    step_ns = UINT64_MAX;
    assert_int_equal(home_queue(home, queue).messages, 2);
    assert_int_equal(home_queue(home, queue).rejected, 0);
}

/* "All" are those that are there at the beginning: what RabbitMQ refuses again meanwhile, or anew,
 * comes behind them, and is not taken a second time. */
static void test_all_ends(void **state)
{
    struct home *home = *state;
    static const enum job_type types[] = {JOB_RETRY, JOB_DISCARD};
    for (size_t i = 0; i < 2; i++) {
        uint32_t queue = home_fill(home, 3, 100);
        uint64_t first = home_queue(home, queue).first_seq;
        reject(home, queue, first, first + 2);
        struct job *begun = run(home, types[i], queue, 0, UINT64_MAX);
        assert_int_equal(begun->status, STATUS_OK);
        assert_int_equal(begun->rejected.count, 2);
        assert_int_equal(begun->rejected.last, first + 2);
        if (types[i] == JOB_DISCARD)
            home_fill(home, 2, 100);
        reject(home, queue, first + 3, first + 4); /* again, or new ones */
        struct job *next =
            run(home, types[i], queue, begun->rejected.reached, begun->rejected.last);
        assert_int_equal(next->status, STATUS_NOT_FOUND); /* and no more of these */
        assert_int_equal(next->rejected.count, 1);
        assert_int_equal(home_queue(home, queue).rejected, 2);
        job_free(begun);
        job_free(next);
        job_free(run(home, JOB_DISCARD, queue, 0, UINT64_MAX));
        if (types[i] == JOB_RETRY) { /* the third is waiting again */
            home_begin(home);
            assert_int_equal(store_delete(home->store, queue, first + 5, &home->failure),
                             STATUS_OK);
            home_commit(home);
        }
    }
}

/* ---- one batch of many clients ---- */

enum { CLIENTS = 50 };

static void add_body(struct job *job, size_t len)
{
    struct message message;
    struct slab *slab = slab_new_on_thread(len + 2);
    assert_non_null(slab);
    memset(slab->data, 'x', len + 2);
    message_init(&message);
    message.method = (struct span){slab, slab->data, 1};
    message.header = (struct span){slab, slab->data + 1, 1};
    message.body_one = (struct span){slab, slab->data + 2, (uint32_t)len};
    message.body = &message.body_one;
    message.body_count = 1;
    message.body_size = len;
    for (unsigned i = 0; i < 2; i++)
        slab_ref(slab);
    job_add_message(job, RECORD_PUBLISH, &message);
}

/* Posts a publish of channel `owner`, or, of more messages, a transaction. */
static struct job *post(struct mail_chain *batch, uint32_t queue, uint64_t owner, unsigned count,
                        size_t len)
{
    struct job *job = job_new(JOB_APPEND, queue, NULL, owner);
    for (unsigned i = 0; i < count; i++)
        add_body(job, len);
    job->append.commit = count > 1;
    mail_append(batch, &job->mail);
    return job;
}

static void free_batch(struct mail_chain *batch)
{
    struct mail *mail;
    while ((mail = mail_take_first(batch)) != NULL)
        job_free((struct job *)mail);
}

/* A transaction that does not fit is refused as a whole, and costs nobody a commit of his own. */
static void test_large_transaction_among_others(void **state)
{
    struct home *home = *state;
    uint32_t queue = home_fill(home, 1, 100);
    struct work work = {.store = home->store};
    struct mail_chain batch = {0};
    gauges_init(&work.gauges);
    for (unsigned i = 0; i < CLIENTS; i++)
        post(&batch, queue, i + 1, 1, 100);
    struct job *large = post(&batch, queue, CLIENTS + 1, 2, HOME_MAX_SIZE * 3 / 4);
    for (unsigned i = 0; i < CLIENTS; i++)
        post(&batch, queue, i + 1, 2, 100);
    syncs = 0;
    work_write(&work, &batch);
    assert_int_equal(syncs, 1);
    for (struct mail *mail = batch.first; mail; mail = mail->next)
        assert_int_equal(((struct job *)mail)->status,
                         mail == &large->mail ? STATUS_FULL : STATUS_OK);
    assert_int_equal(home_queue(home, queue).messages, 1 + 3 * CLIENTS);
    free_batch(&batch);
    work_clear(&work);
    gauges_deinit(&work.gauges);
}

/* Its publishes went another way, and its answer comes behind them. */
static void test_a_transaction_of_nothing(void **state)
{
    struct home *home = *state;
    uint32_t queue = home_fill(home, 1, 100);
    struct work work = {.store = home->store};
    struct mail_chain batch = {0};
    gauges_init(&work.gauges);
    const struct job *empty = post(&batch, queue, 1, 0, 0);
    post(&batch, queue, 1, 1, 100);
    work_write(&work, &batch);
    assert_int_equal(empty->status, STATUS_OK);
    assert_int_equal(home_queue(home, queue).messages, 2);
    free_batch(&batch);
    work_clear(&work);
    gauges_deinit(&work.gauges);
}

/* On a disk whose syncs fail, and take their time for it, nobody waits for more than two. */
static void test_failing_disk_is_tried_twice(void **state)
{
    struct home *home = *state;
    uint32_t queue = home_fill(home, 1, 100);
    struct work work = {.store = home->store};
    struct mail_chain batch = {0};
    gauges_init(&work.gauges);
    for (unsigned i = 0; i < CLIENTS; i++)
        post(&batch, queue, i + 1, 1, 100);
    syncs = 0;
    is_broken = true;
    work_write(&work, &batch);
    is_broken = false;
    assert_int_equal(syncs, 2);
    for (struct mail *mail = batch.first; mail; mail = mail->next) {
        assert_int_equal(((struct job *)mail)->status, STATUS_IO);
        assert_non_null(strstr(((struct job *)mail)->error, "committing"));
    }
    assert_int_equal(home_queue(home, queue).messages, 1);
    free_batch(&batch);
    work_clear(&work);
    gauges_deinit(&work.gauges);
    home->store = work.store;
}

/* A commit that is not synced says nothing of a disk whose sync has failed. */
static void test_what_ends_a_failure(void **state)
{
    static const struct {
        enum store_sync sync;
        bool goes_on;
    } cases[] = {
        {STORE_SYNC_COMMIT, false}, {STORE_SYNC_INTERVAL, true}, {STORE_SYNC_NEVER, false}};
    struct home *home = *state;
    uint32_t queue = home_fill(home, 1, 100);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct work work = {.store = home->store, .options.sync = cases[i].sync, .failing = true};
        struct mail_chain batch = {0};
        gauges_init(&work.gauges);
        struct job *job = post(&batch, queue, 1, 1, 100);
        work_write(&work, &batch);
        assert_int_equal(job->status, STATUS_OK);
        assert_int_equal(work.failing, cases[i].goes_on);
        free_batch(&batch);
        work_clear(&work);
        gauges_deinit(&work.gauges);
    }
}

static void assert_statuses(const struct mail_chain *batch, unsigned first, unsigned count,
                            enum status status)
{
    unsigned i = 0;
    for (const struct mail *mail = batch->first; mail; mail = mail->next, i++)
        if (i >= first && i < first + count)
            assert_int_equal(((const struct job *)mail)->status, status);
    assert_true(i >= first + count);
}

/* However many channels fail at once: what follows of each is refused, until none of it can be
 * under way any more. */
static void test_no_failed_channel_is_forgotten_too_early(void **state)
{
    enum { CHANNELS = 3 * WORK_CHANNELS_FAILED };
    struct home *home = *state;
    uint32_t queue = home_fill(home, 1, 100);
    struct work work = {.store = home->store};
    gauges_init(&work.gauges);
    uint64_t heard = 0;
    for (unsigned round = 0; round < 4; round++) {
        struct mail_chain batch = {0};
        for (unsigned i = 0; i < CHANNELS; i++) {
            struct job *job = post(&batch, round == 0 ? queue + 1 : queue, i + 1, 1, 10);
            job->heard = heard;
        }
        work_write(&work, &batch);
        const unsigned late = CHANNELS - WORK_CHANNELS_FAILED;
        if (round == 0)
            assert_statuses(&batch, 0, CHANNELS, STATUS_INVALID);
        else
            assert_statuses(&batch, 0, late, round == 3 ? STATUS_OK : STATUS_FULL);
        if (round > 0)
            assert_statuses(&batch, late, WORK_CHANNELS_FAILED, STATUS_FULL);
        if (round == 2) /* the loop hears of all that */
            heard = ((struct job *)batch.first)->batch;
        free_batch(&batch);
    }
    work_clear(&work);
    gauges_deinit(&work.gauges);
}

static void move_data(const struct home *home, bool back)
{
    char data[128], aside[128];
    snprintf(data, sizeof data, "%s/data.mdb", home->spool);
    snprintf(aside, sizeof aside, "%s/aside", home->top);
    assert_int_equal(back ? rename(aside, data) : rename(data, aside), 0);
}

/* It is not closed, nor is another one made or taken, while data.mdb is not in its place. */
static void test_a_store_that_is_out_of_place_is_not_made_anew(void **state)
{
    struct home *home = *state;
    home_fill(home, 3, 100);
    struct work work = {.store = home->store,
                        .options = {.path = home->spool, .max_size_bytes = HOME_MAX_SIZE}};
    home->store = NULL;
    move_data(home, false);
    work_close_if_fatal(&work, STATUS_FATAL);
    assert_non_null(work.store);
    move_data(home, true);
    work_close_if_fatal(&work, STATUS_FATAL);
    assert_null(work.store);
    assert_true(work_open(&work, &home->failure));
    work_close_if_fatal(&work, STATUS_FATAL);
    move_data(home, false);
    assert_false(work_open(&work, &home->failure));
    assert_false(work_open(&work, &home->failure));
    move_data(home, true);
    assert_true(work_open(&work, &home->failure));
    home->store = work.store;
    assert_int_equal(home_queue(home, 1).messages, 3);
}

#define WITH_HOME(test) cmocka_unit_test_setup_teardown(test, home_setup, home_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_HOME(test_all_ends),
        WITH_HOME(test_a_step_is_short),
        WITH_HOME(test_large_transaction_among_others),
        WITH_HOME(test_a_transaction_of_nothing),
        WITH_HOME(test_failing_disk_is_tried_twice),
        WITH_HOME(test_what_ends_a_failure),
        WITH_HOME(test_no_failed_channel_is_forgotten_too_early),
        WITH_HOME(test_a_store_that_is_out_of_place_is_not_made_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
