/* What the spooler's thread does with jobs, without the thread. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/spool_home.h"
#include "spooler/work.h"

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

#define WITH_HOME(test) cmocka_unit_test_setup_teardown(test, home_setup, home_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_HOME(test_all_ends),
        WITH_HOME(test_a_step_is_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
