/* Rejected messages that leave the spool. What the lines of the file say is
 * test_rejected_list.py's. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/spool_home.h"
#include "spooler/rejected_file.h"
#include "spooler/trim.h"

enum { COUNT = 8 };

static uint64_t step_ns = UINT64_MAX;

/* Message n was rejected at n microseconds. */
static uint32_t fill(struct home *home, size_t body_len)
{
    uint32_t queue = home_fill(home, COUNT, body_len);
    home_begin(home);
    for (uint64_t seq = 1; seq <= COUNT; seq++) {
        struct rejection why = {.code = 404, .text = "NOT_FOUND", .text_len = 9, .at_us = seq};
        assert_int_equal(store_reject(home->store, queue, seq, &why, &home->failure), STATUS_OK);
    }
    home_commit(home);
    return queue;
}

struct outcome {
    enum status status;
    uint32_t count;
    bool at_end;
    uint64_t left, after;
};

static struct outcome trim_from(struct home *home, uint32_t queue, uint64_t after, bool exports,
                                uint64_t excess, uint64_t before_us)
{
    struct work work = {.store = home->store, .options = {.path = home->spool}, .step_ns = step_ns};
    struct job *job = job_new(JOB_TRIM, queue, NULL, 0);
    job->trim.user = strdup("shop");
    job->trim.vhost = strdup("/");
    job->trim.exports = exports;
    job->trim.excess = excess;
    job->trim.before_us = before_us;
    job->trim.after = after;
    struct outcome outcome = {.status = trim_run(&work, job, &home->failure)};
    outcome.count = job->trim.count;
    outcome.at_end = job->trim.at_end;
    outcome.after = job->trim.after;
    outcome.left = home_queue(home, queue).rejected;
    job_free(job);
    return outcome;
}

static struct outcome trim(struct home *home, uint32_t queue, bool exports, uint64_t excess,
                           uint64_t before_us)
{
    return trim_from(home, queue, 0, exports, excess, before_us);
}

static void test_the_oldest_go(void **state)
{
    struct home *home = *state;
    uint32_t queue = fill(home, 10);
    struct outcome outcome = trim(home, queue, false, 3, 0);
    assert_int_equal(outcome.status, STATUS_OK);
    assert_int_equal(outcome.count, 3);
    assert_true(outcome.at_end);
    assert_int_equal(outcome.left, COUNT - 3);
    struct reader_record first;
    uint8_t *bytes;
    home_begin(home);
    assert_int_equal(store_copy_rejected(home->store, queue, 0, &first, &bytes, &home->failure),
                     STATUS_OK);
    assert_int_equal(first.seq, 4);
    assert_int_equal(first.rejection.at_us, 4);
    assert_memory_equal(first.rejection.text, "NOT_FOUND", 9);
    assert_int_equal(first.body_size, 10);
    assert_true(is_body(first.body, 10));
    free(bytes);
    store_abort(home->store);
}

static void test_those_that_are_too_old_go(void **state)
{
    struct home *home = *state;
    uint32_t queue = fill(home, 10);
    assert_int_equal(trim(home, queue, false, 0, 1).count, 0);
    assert_int_equal(trim(home, queue, false, 0, 6).count, 5);
    assert_int_equal(trim(home, queue, false, 1, 6).left, COUNT - 6);
    struct outcome all = trim(home, queue, false, 0, UINT64_MAX);
    assert_int_equal(all.left, 0);
    assert_true(all.at_end);
}

/* Message 1 was tried for long, and rejected when the others had been there for a while. */
static uint32_t fill_late(struct home *home)
{
    uint32_t queue = home_fill(home, COUNT, 10);
    home_begin(home);
    for (uint64_t seq = 1; seq <= COUNT; seq++) {
        struct rejection why = {.code = 404, .at_us = seq == 1 ? 100 : seq};
        assert_int_equal(store_reject(home->store, queue, seq, &why, &home->failure), STATUS_OK);
    }
    home_commit(home);
    return queue;
}

static void test_one_that_was_rejected_late_keeps_no_other(void **state)
{
    struct home *home = *state;
    uint32_t queue = fill_late(home);
    struct outcome outcome = trim(home, queue, false, 0, 6);
    assert_int_equal(outcome.count, 4); /* 2 to 5 */
    assert_int_equal(outcome.left, COUNT - 4);
    assert_true(outcome.at_end);
    assert_int_equal(outcome.after, 0);
    assert_int_equal(trim(home, queue, false, 1, 0).left, COUNT - 5); /* the first, if too many */
}

/* A look that finds none in its time ends, and the next one goes on behind it. */
static void test_a_look_that_finds_none_goes_on_later(void **state)
{
    struct home *home = *state;
    uint32_t queue = fill_late(home);
    step_ns = 0;
    struct outcome outcome = trim(home, queue, false, 0, 6);
    assert_int_equal(outcome.count, 0);
    assert_true(outcome.at_end);
    assert_int_equal(outcome.after, 1);
    outcome = trim_from(home, queue, outcome.after, false, 0, 6);
    assert_int_equal(outcome.count, 1);
    assert_false(outcome.at_end);
    step_ns = UINT64_MAX;
    assert_int_equal(trim_from(home, queue, outcome.after, false, 0, 6).count, 3);
}

/* And a step that has no time is one message. */
static void test_it_goes_in_steps(void **state)
{
    struct home *home = *state;
    uint32_t queue = fill(home, 10);
    step_ns = 0;
    for (uint64_t left = COUNT; left > 0; left--) {
        struct outcome step = trim(home, queue, false, left, 0);
        assert_int_equal(step.count, 1);
        assert_int_equal(step.left, left - 1);
        assert_false(step.at_end);
    }
    assert_true(trim(home, queue, false, COUNT, 0).at_end);
    step_ns = UINT64_MAX;
}

/* Nobody could make anything of its line: a person decides. */
static void test_what_cannot_be_read_stays(void **state)
{
    struct home *home = *state;
    uint32_t queue = fill(home, 10);
    struct outcome outcome = trim(home, queue, true, COUNT, 0);
    assert_int_equal(outcome.status, STATUS_OK);
    assert_int_equal(outcome.count, 0);
    assert_int_equal(outcome.left, COUNT);
    assert_true(outcome.at_end);
}

static void test_damaged_ones_are_passed_over(void **state)
{
    struct home *home = *state;
    uint32_t queue = fill(home, 10);
    uint8_t key[RECORD_KEY_BYTES];
    record_key(key, queue, 1);
    home_close(home);
    backdoor_flip(home, "rejected", key, sizeof key);
    home_open(home);
    struct outcome outcome = trim(home, queue, false, 2, 0);
    assert_int_equal(outcome.count, 2);
    assert_int_equal(outcome.left, COUNT - 2);
    assert_int_equal(trim(home, queue, false, COUNT, 0).left, 1);
}

static void test_a_file_that_is_none(void **state)
{
    struct home *home = *state;
    uint32_t queue = fill(home, 10);
    char name[128], other[128];
    snprintf(name, sizeof name, "%s/" REJECTED_FILE_NAME, home->spool);
    snprintf(other, sizeof other, "%s/other", home->top);
    assert_int_equal(symlink(other, name), 0);
    struct outcome outcome = trim(home, queue, true, COUNT, 0);
    assert_int_equal(outcome.status, STATUS_IO);
    assert_int_equal(outcome.left, COUNT);
    assert_int_equal(access(other, F_OK), -1);
    unlink(name);
    assert_int_equal(mkfifo(name, 0600), 0);
    assert_int_equal(trim(home, queue, true, COUNT, 0).status, STATUS_IO);
}

static void test_lines(void **state)
{
    struct home *home = *state;
    struct rejected_file file;
    char name[128], text[64] = "";
    home_fill(home, 1, 1);
    snprintf(name, sizeof name, "%s/" REJECTED_FILE_NAME, home->spool);
    for (int i = 0; i < 3; i++) { /* the second is torn, as by a kill */
        assert_int_equal(rejected_file_open(&file, home->spool, &home->failure), STATUS_OK);
        rejected_file_write(&file, i == 1 ? "{}" : "{}\n", i == 1 ? 2 : 3);
        assert_int_equal(rejected_file_sync(&file, &home->failure), STATUS_OK);
        rejected_file_close(&file);
    }
    assert_int_equal(rejected_file_open(&file, home->spool, &home->failure), STATUS_OK);
    rejected_file_write(&file, "gone\n", 5);
    rejected_file_undo(&file);
    rejected_file_close(&file);
    FILE *written = fopen(name, "r");
    assert_non_null(written);
    assert_int_equal(fread(text, 1, sizeof text - 1, written), 9);
    assert_string_equal(text, "{}\n{}\n{}\n");
    struct stat found;
    assert_int_equal(fstat(fileno(written), &found), 0);
    assert_int_equal(found.st_mode & 0777, 0600);
    fclose(written);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, home_setup, home_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_oldest_go),
        TEST(test_those_that_are_too_old_go),
        TEST(test_one_that_was_rejected_late_keeps_no_other),
        TEST(test_a_look_that_finds_none_goes_on_later),
        TEST(test_it_goes_in_steps),
        TEST(test_what_cannot_be_read_stays),
        TEST(test_damaged_ones_are_passed_over),
        TEST(test_a_file_that_is_none),
        TEST(test_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
