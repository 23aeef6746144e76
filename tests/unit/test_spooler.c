/* The spool's thread over a store in memory: what it does with jobs that go well, and with those
 * that do not. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../world/store.h"
#include "amqp/destination.h"
#include "amqp/frame.h"
#include "amqp/method.h"
#include "amqp/wire.h"
#include "base/log.h"
#include "spooler/spooler.h"

enum { MANY = 1024 };

static struct config config;
static uv_loop_t loop;
static struct spooler *spooler;
static char folder[] = "/tmp/amqpbuf-spooler-XXXXXX";

/* What came back, in order. */
static struct {
    enum job_type type;
    enum status status;
    uint64_t owner, last_seq;
    uint32_t queue, count;
} done[MANY];
static unsigned done_count;
/* Of the last read. */
static struct job_record records[MANY];
static uint8_t frames[MANY][512];
static uint32_t record_count;
static bool at_end;
static bool closed;

static void on_done(struct job *job)
{
    done[done_count].type = job->type;
    done[done_count].status = job->status;
    done[done_count].owner = job->owner;
    done[done_count].queue = job->queue;
    if (job->type == JOB_APPEND)
        done[done_count].last_seq = job->append.last_seq;
    if (job->type == JOB_RETRY || job->type == JOB_DISCARD)
        done[done_count].count = job->rejected.count;
    done_count++;
    if (job->type != JOB_READ)
        return;
    record_count = job->read.count;
    at_end = job->read.at_end;
    for (uint32_t i = 0; i < record_count; i++) {
        records[i] = job->read.records[i];
        memcpy(frames[i], records[i].frames, records[i].frames_len);
    }
}

static void visit(void *arg, const struct spooler_queue *queue)
{
    snprintf(arg, 64, "%s:%s:%llu", queue->user, queue->password ? queue->password : "?",
             (unsigned long long)queue->messages);
}

static void open_spooler(char found[64])
{
    struct failure failure = {0};
    spooler = spooler_open(&loop, &config, visit, found, &failure);
    assert_non_null(spooler);
}

static int begin_with(const char *a, const char *b)
{
    char path[64], found[64];
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "spool.path=%s", folder);
    const char *sets[] = {path, "pool.publish_buffer_size=100", a, b};
    struct config_sources sources = {.file = "/dev/null",
                                     .sets = sets,
                                     .set_count = b   ? 4
                                                  : a ? 3
                                                      : 2};
    log_init(LOG_ERROR, LOG_LOGFMT);
    assert_true(config_load(&config, &sources, stderr));
    assert_int_equal(uv_loop_init(&loop), 0);
    fake_store_reset();
    done_count = 0;
    closed = false;
    open_spooler(found);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return begin_with(NULL, NULL);
}

static void on_closed(void *arg)
{
    (void)arg;
    closed = true;
}

static void close_spooler(void)
{
    spooler_close(spooler, on_closed, NULL);
    while (!closed)
        uv_run(&loop, UV_RUN_ONCE);
    uv_run(&loop, UV_RUN_DEFAULT);
}

static int teardown(void **state)
{
    (void)state;
    char key[64];
    close_spooler();
    assert_int_equal(uv_loop_close(&loop), 0);
    snprintf(key, sizeof key, "%s/credential.key", folder);
    unlink(key);
    assert_int_equal(rmdir(folder), 0);
    config_free(&config);
    slab_trim();
    return 0;
}

/* All that was posted. */
static void run(void)
{
    spooler_hand_over(spooler);
    while (spooler_pending(spooler) > 0)
        uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(spooler_pending_bytes(spooler), 0); /* whatever became of it */
}

static void set_message(struct message *m, const char *key, const char *body, bool mandatory)
{
    struct slab *slab = slab_new(512);
    uint8_t *at = slab->data;
    amqp_basic_publish_t publish = {.routing_key = bytes_of(key), .mandatory = mandatory};
    size_t len = method_encode(at, 256, 1, AMQP_BASIC_PUBLISH_METHOD, &publish);
    message_init(m);
    m->method = span_of(slab, at + FRAME_HEAD_BYTES, len - FRAME_OVERHEAD_BYTES);
    at += len;
    memset(at, 0, 14);
    wire_put16(at, 60);
    wire_put64(at + 4, strlen(body));
    m->header = span_of(slab, at, 14);
    at += 14;
    memcpy(at, body, strlen(body));
    m->body[0] = span_of(slab, at, strlen(body));
    m->body_count = 1;
    m->body_size = strlen(body);
    slab_unref(slab);
}

static struct job *new_append(uint64_t owner)
{
    return job_new(JOB_APPEND, 1, on_done, owner);
}

static void add(struct job *job, const char *key, const char *body)
{
    struct message m;
    set_message(&m, key, body, false);
    job_add_message(job, RECORD_PUBLISH, &m);
}

static void post_append(uint64_t owner, const char *key, const char *body)
{
    struct job *job = new_append(owner);
    add(job, key, body);
    spooler_post(spooler, job);
}

static struct job *new_read(uint64_t after)
{
    struct job *job = job_new(JOB_READ, 1, on_done, 0);
    job->read.after = after;
    job->read.until = UINT64_MAX;
    job->read.records_max = MANY;
    job->read.bytes_max = 1024 * 1024;
    job->read.framing.channel = 7;
    job->read.framing.frame_max = 4096;
    return job;
}

static void read_all(void)
{
    spooler_post(spooler, new_read(0));
    run();
}

/* The body frame is the last of a record's. */
static void assert_body(uint32_t index, const char *body)
{
    const uint8_t *end = frames[index] + records[index].frames_len - 1;
    assert_int_equal(*end, FRAME_END);
    assert_memory_equal(end - strlen(body), body, strlen(body));
}

/* ---- what goes well ---- */

static void test_what_is_gathered_is_one_commit(void **state)
{
    (void)state;
    char body[16];
    for (unsigned i = 0; i < 20; i++) {
        snprintf(body, sizeof body, "body %u", i);
        post_append(i + 1, "q", body);
    }
    assert_true(spooler_gathers(spooler));
    assert_int_equal(spooler_pending(spooler), 20);
    assert_true(spooler_pending_bytes(spooler) > 0);
    run();
    assert_int_equal(fake_store.commits, 1);
    assert_int_equal(done_count, 20);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(done[i].owner, i + 1);
        assert_int_equal(done[i].status, STATUS_OK);
        assert_int_equal(done[i].last_seq, i + 1);
    }
    assert_int_equal(spooler_pending_bytes(spooler), 0);
    read_all();
    assert_int_equal(record_count, 20);
    assert_true(at_end);
    assert_body(19, "body 19");
    assert_int_equal(records[3].seq, 4);
    assert_int_equal(frames[0][2], 7); /* framed for the channel that was asked for */
}

static void post_login(void)
{
    struct job *job = job_new(JOB_QUEUE_PUT, 0, on_done, 0);
    job->put.user = strdup("guest");
    job->put.vhost = strdup("/");
    job->put.password = strdup("secret");
    spooler_post(spooler, job);
}

static void test_a_login_is_sealed_and_found_again(void **state)
{
    (void)state;
    post_login();
    run();
    assert_int_equal(done[0].queue, 1);
    post_append(0, "q", "one");
    run();
    char found[64] = "";
    close_spooler();
    closed = false;
    open_spooler(found);
    assert_string_equal(found, "guest:secret:1");
}

static void test_a_login_with_messages_is_not_dropped(void **state)
{
    (void)state;
    post_append(0, "q", "one");
    run();
    spooler_post(spooler, job_new(JOB_QUEUE_DROP, 1, on_done, 0));
    run();
    assert_int_equal(done[1].status, STATUS_INVALID);
}

/* In one batch: the login is written first, where it was. */
static void test_a_login_that_has_come_back_is_not_dropped(void **state)
{
    (void)state;
    char found[64] = "";
    post_login();
    run();
    spooler_post(spooler, job_new(JOB_QUEUE_DROP, 1, on_done, 0));
    post_login();
    run();
    assert_int_equal(done[1].status, STATUS_INVALID);
    assert_int_equal(done[2].status, STATUS_OK);
    close_spooler();
    closed = false;
    open_spooler(found);
    assert_string_equal(found, "guest:secret:0");
    post_login();
    spooler_post(spooler, job_new(JOB_QUEUE_DROP, 1, on_done, 0)); /* it has left again */
    run();
    assert_int_equal(done[4].status, STATUS_OK);
}

static void test_reads_choose_what_they_bring(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 6; i++)
        post_append(0, i % 2 ? "odd" : "even", i % 2 ? "1" : "0");
    run();
    struct message m;
    set_message(&m, "odd", "", false);
    uint64_t odd = destination_of(m.method.at, m.method.len);
    message_clear(&m);
    struct job *job = new_read(0);
    job->read.only = odd;
    spooler_post(spooler, job);
    run();
    assert_int_equal(record_count, 3);
    assert_int_equal(records[0].seq, 2);
    job = new_read(0);
    job->read.except = malloc(sizeof *job->read.except);
    job->read.except[0] = odd;
    job->read.except_count = 1;
    job->read.records_max = 2;
    spooler_post(spooler, job);
    run();
    assert_int_equal(record_count, 2);
    assert_int_equal(records[1].seq, 3);
    assert_false(at_end);
    job = new_read(1);
    job->read.until = 2;
    job->read.bytes_max = 1; /* at least one, whatever its size */
    spooler_post(spooler, job);
    run();
    assert_int_equal(record_count, 1);
    assert_int_equal(records[0].seq, 2);
    assert_int_equal(fake_store.bodies, 3 + 2 + 1); /* others are large, and cost the disk time */
}

static void test_publishes_become_mandatory_where_that_is_asked_for(void **state)
{
    (void)state;
    struct message m;
    struct job *job = new_append(0);
    set_message(&m, "q", "wanted", true);
    job_add_message(job, RECORD_PUBLISH, &m);
    add(job, "q", "not wanted");
    spooler_post(spooler, job);
    run();
    job = new_read(0);
    job->read.framing.mandatory = true;
    spooler_post(spooler, job);
    run();
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(frames[i][FRAME_HEAD_BYTES + records[i].method_len - 1] & 1, 1);
    assert_true(records[0].mandatory);
    assert_false(records[1].mandatory);
}

static void test_rejected_ones_are_moved(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        post_append(0, "q", "one");
        struct job *job = job_new(JOB_REJECT, 1, on_done, 0);
        job->reject.seq = i + 1;
        job->reject.code = 406;
        job->reject.text = strdup("PRECONDITION_FAILED");
        spooler_post(spooler, job);
    }
    run();
    read_all();
    assert_int_equal(record_count, 0);
    struct job *retry = job_new(JOB_RETRY, 1, on_done, 0);
    retry->rejected.last = UINT64_MAX;
    retry->rejected.max = 2;
    spooler_post(spooler, retry);
    run();
    assert_int_equal(done[done_count - 1].count, 2);
    read_all();
    assert_int_equal(record_count, 2);
    struct job *discard = job_new(JOB_DISCARD, 1, on_done, 0);
    discard->rejected.last = UINT64_MAX;
    discard->rejected.max = 10;
    spooler_post(spooler, discard);
    run();
    assert_int_equal(done[done_count - 1].count, 1);
    assert_int_equal(done[done_count - 1].status, STATUS_NOT_FOUND); /* no more of them */
}

static void test_deletes_of_what_is_gone_are_no_error(void **state)
{
    (void)state;
    post_append(0, "q", "one");
    run();
    for (unsigned i = 0; i < 2; i++) {
        struct job *job = job_new(JOB_DELETE, 1, on_done, 0);
        job->delete.seqs = calloc(1, sizeof *job->delete.seqs);
        job->delete.seqs[0] = 1;
        job->delete.count = 1;
        spooler_post(spooler, job);
        run();
        assert_int_equal(done[done_count - 1].status, STATUS_OK);
    }
    read_all();
    assert_int_equal(record_count, 0);
}

/* ---- what does not ---- */

/* The others of a batch are not its fault; but what follows on its channel would be a hole. */
static void test_one_that_fails_takes_only_its_channel_with_it(void **state)
{
    (void)state;
    fake_store.fail_appends = 1;
    fake_store.failure = STATUS_FULL;
    post_append(1, "q", "too large");
    post_append(2, "q", "another channel");
    post_append(1, "q", "behind it");
    run();
    assert_int_equal(done[0].status, STATUS_FULL);
    assert_int_equal(done[1].status, STATUS_OK);
    assert_int_equal(done[2].status, STATUS_FULL);
    read_all();
    assert_int_equal(record_count, 1);
    assert_body(0, "another channel");
    assert_string_equal(spooler_failure(spooler, uv_now(&loop)),
                        "an earlier message of its channel could not be stored");
    assert_null(spooler_failure(spooler, uv_now(&loop) + 10001));
}

/* More than the thread remembers for good: what was posted before their clients could hear of it is
 * refused, too; who comes afterwards is another. */
static void test_more_channels_fail_than_are_remembered(void **state)
{
    (void)state;
    enum { CHANNELS = 300 };
    fake_store.fail_appends = CHANNELS;
    fake_store.failure = STATUS_FULL;
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 1; i <= CHANNELS; i++)
            post_append(i, "q", "one");
        spooler_hand_over(spooler);
    }
    run();
    for (unsigned i = 0; i < 2 * CHANNELS; i++)
        assert_int_equal(done[i].status, STATUS_FULL);
    post_append(1, "q", "one");
    run();
    assert_int_equal(done[2 * CHANNELS].status, STATUS_OK);
}

static int setup_reject(void **state)
{
    (void)state;
    return begin_with("spool.overflow=reject", NULL);
}

/* Each that is confirmed hears of itself: what follows may be stored. */
static void test_with_nacks_there_is_no_hole_to_fear(void **state)
{
    (void)state;
    fake_store.fail_appends = 1;
    fake_store.failure = STATUS_FULL;
    for (unsigned i = 0; i < 2; i++) {
        struct job *job = new_append(1);
        job->context = i + 1; /* its tag */
        add(job, "q", "one");
        spooler_post(spooler, job);
    }
    run();
    assert_int_equal(done[0].status, STATUS_FULL);
    assert_int_equal(done[1].status, STATUS_OK);
}

/* Of several: the caller knows which. */
static void on_damaged_done(struct job *job)
{
    assert_int_equal(job->status, STATUS_OK);
    if (job->type == JOB_REJECT) {
        assert_true(job->reject.stays);
        return;
    }
    assert_int_equal(job->delete.stay, 1);
    assert_int_equal(job->delete.seqs[0], 2);
    assert_int_equal(job->delete.seqs[1] + job->delete.seqs[2], 1 + 3);
}

static void test_it_is_told_what_stays_over_damage(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        post_append(0, "q", "one");
    run();
    fake_store.damaged = 2;
    struct job *job = job_new(JOB_REJECT, 1, on_damaged_done, 0);
    job->reject.seq = 2;
    job->reject.text = strdup("");
    spooler_post(spooler, job);
    job = job_new(JOB_DELETE, 1, on_damaged_done, 0);
    job->delete.seqs = calloc(3, sizeof *job->delete.seqs);
    for (unsigned i = 0; i < 3; i++)
        job->delete.seqs[i] = i + 1;
    job->delete.count = 3;
    spooler_post(spooler, job);
    fake_store.fail_commits = 1; /* it is done twice */
    fake_store.failure = STATUS_IO;
    run();
}

static int setup_interval(void **state)
{
    (void)state;
    return begin_with("spool.sync=interval", "spool.sync_interval=10ms");
}

static void delete_one(void)
{
    struct job *job = job_new(JOB_DELETE, 1, on_done, 0);
    job->delete.seqs = calloc(1, sizeof *job->delete.seqs);
    job->delete.seqs[0] = 1;
    job->delete.count = 1;
    done_count = 0;
    spooler_post(spooler, job);
    run();
}

/* Also while there is always work. */
static void test_a_failed_sync_is_probed_beside_work(void **state)
{
    (void)state;
    fake_store.fail_syncs = 1;
    while (fake_store.fail_syncs > 0 || fake_store.probes == 0 || !spooler_has_room(spooler)) {
        delete_one();
        assert_int_equal(done[0].status, STATUS_OK);
    }
}

static int setup_long_interval(void **state)
{
    (void)state;
    return begin_with("spool.sync=interval", "spool.sync_interval=1h");
}

/* It does not wait for the next sync. */
static void test_a_failed_commit_is_probed_beside_work(void **state)
{
    (void)state;
    fake_store.fail_commits = 2;
    fake_store.failure = STATUS_NO_SPACE;
    delete_one();
    assert_int_equal(done[0].status, STATUS_NO_SPACE);
    while (fake_store.probes == 0 || !spooler_has_room(spooler)) {
        delete_one();
        assert_int_equal(done[0].status, STATUS_OK);
    }
}

/* The spool is synced also when there is nothing to do. */
static void test_a_sync_that_fails_at_rest_is_probed(void **state)
{
    (void)state;
    fake_store.fail_syncs = 1;
    post_append(1, "q", "one");
    run();
    while (fake_store.fail_syncs > 0 || fake_store.probes == 0 || !spooler_has_room(spooler))
        uv_sleep(1);
    assert_int_equal(done[0].status, STATUS_OK);
}

static void test_a_transaction_is_all_or_nothing(void **state)
{
    (void)state;
    fake_store.skip = 1;
    fake_store.fail_appends = 2; /* together with the others, and alone */
    fake_store.failure = STATUS_FULL;
    struct job *job = new_append(1);
    add(job, "q", "first of it");
    add(job, "q", "second of it");
    job->append.commit = true;
    spooler_post(spooler, job);
    post_append(2, "q", "another");
    run();
    assert_int_equal(done[0].status, STATUS_FULL);
    assert_int_equal(done[1].status, STATUS_OK);
    read_all();
    assert_int_equal(record_count, 1);
    assert_body(0, "another");
}

static void test_what_does_not_fit_a_disk_is_tried_one_by_one(void **state)
{
    (void)state;
    fake_store.fail_commits = 2;
    fake_store.failure = STATUS_NO_SPACE;
    post_append(1, "q", "one");
    post_append(2, "q", "two");
    run();
    assert_int_equal(done[0].status, STATUS_NO_SPACE);
    assert_int_equal(done[1].status, STATUS_OK);
    read_all();
    assert_int_equal(record_count, 1);
    assert_body(0, "two");
}

static void test_a_disk_that_fails_is_tried_twice(void **state)
{
    (void)state;
    fake_store.fail_commits = 2;
    fake_store.failure = STATUS_IO;
    for (unsigned i = 1; i <= 3; i++)
        post_append(i, "q", "one");
    run();
    assert_int_equal(fake_store.fail_commits, 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(done[i].status, STATUS_IO);
    post_append(4, "q", "two");
    run();
    assert_int_equal(done[3].status, STATUS_OK);
    read_all();
    assert_int_equal(record_count, 1);
    assert_body(0, "two");
}

/* Those before it and those behind it have a commit each. */
static void test_an_append_that_fails_is_written_alone(void **state)
{
    (void)state;
    fake_store.skip = 10;
    fake_store.fail_appends = 1;
    fake_store.failure = STATUS_NO_MEMORY;
    unsigned commits = fake_store.commits;
    for (unsigned i = 1; i <= 20; i++)
        post_append(i, "q", "one");
    run();
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(done[i].status, STATUS_OK);
    assert_int_equal(fake_store.commits - commits, 3);
    read_all();
    assert_int_equal(record_count, 20);
}

static void test_a_fatal_failure_opens_the_store_again(void **state)
{
    (void)state;
    fake_store.fail_commits = 2;
    fake_store.failure = STATUS_FATAL;
    post_append(1, "q", "one");
    run();
    assert_int_equal(done[0].status, STATUS_FATAL);
    assert_int_equal(fake_store.opened, 2);
    post_append(2, "q", "two");
    run();
    assert_int_equal(done[1].status, STATUS_OK);
    assert_int_equal(fake_store.opened, 3);
}

/* It looks before a batch, but not before each. */
static void read_until(bool (*is_true)(void))
{
    do {
        done_count = 0;
        read_all();
    } while (!is_true());
}

static bool is_opened_again(void)
{
    return fake_store.opened == 2;
}

static bool is_said_to_be_misplaced(void)
{
    return spooler_misplaced(spooler);
}

static bool is_said_to_be_in_place(void)
{
    return !spooler_misplaced(spooler);
}

static void test_a_lock_that_is_gone_opens_the_store_again(void **state)
{
    (void)state;
    fake_store.lock_is_gone = true;
    read_until(is_opened_again);
    assert_int_equal(done[0].status, STATUS_OK); /* of the same batch */
    assert_null(spooler_misplaced(spooler));
}

static void test_a_file_that_is_gone_is_told(void **state)
{
    (void)state;
    assert_null(spooler_misplaced(spooler));
    fake_store.misplaced = "it was moved";
    read_until(is_said_to_be_misplaced);
    assert_string_equal(spooler_misplaced(spooler), "it was moved");
    assert_int_equal(fake_store.opened, 1);
    fake_store.misplaced = NULL;
    read_until(is_said_to_be_in_place);
}

static void test_damage_is_passed_over(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        post_append(0, "q", "one");
    run();
    fake_store.damaged = 2;
    read_all();
    assert_int_equal(record_count, 2);
    assert_int_equal(records[1].seq, 3);
    struct job *job = job_new(JOB_DELETE, 1, on_done, 0);
    job->delete.seqs = calloc(1, sizeof *job->delete.seqs);
    job->delete.seqs[0] = 2;
    job->delete.count = 1;
    spooler_post(spooler, job);
    run();
    assert_int_equal(done[done_count - 1].status, STATUS_OK); /* it is in nobody's way */
}

/* It was taken when RabbitMQ's frame_max was larger. */
static void test_what_does_not_fit_a_frame_is_known(void **state)
{
    (void)state;
    enum { LARGE = 5000 };
    struct slab *slab = slab_new(2 * LARGE);
    memset(slab->data, 0, 2 * LARGE);
    for (unsigned i = 0; i < 2; i++) {
        struct message m;
        struct job *job = new_append(0);
        set_message(&m, "q", "one", false);
        span_clear(i == 0 ? &m.header : &m.method);
        *(i == 0 ? &m.header : &m.method) = span_of(slab, slab->data, LARGE);
        job_add_message(job, i == 0 ? RECORD_PUBLISH : RECORD_DECLARE, &m);
        spooler_post(spooler, job);
    }
    slab_unref(slab);
    run();
    read_all();
    assert_int_equal(record_count, 2);
    assert_int_equal(records[0].frames_len, 0);
    assert_int_equal(records[1].frames_len, 0);
}

static void test_a_declaration_is_one_frame(void **state)
{
    (void)state;
    struct job *job = new_append(0);
    struct message m;
    set_message(&m, "q", "", false);
    span_clear(&m.header);
    span_clear(&m.body[0]);
    m.body_count = 0;
    job_add_message(job, RECORD_DECLARE, &m);
    spooler_post(spooler, job);
    run();
    read_all();
    assert_int_equal(records[0].kind, RECORD_DECLARE);
    assert_int_equal(records[0].frames_len, records[0].method_len + FRAME_OVERHEAD_BYTES);
}

static void test_room_is_looked_for_after_each_batch(void **state)
{
    (void)state;
    assert_true(spooler_has_room(spooler));
    fake_store.has_room = false;
    post_append(0, "q", "one");
    run();
    assert_false(spooler_has_room(spooler));
    struct spool_view view = {0};
    spooler_view(spooler, &view);
    assert_int_equal(view.used_bytes, 1000);
    assert_int_equal(view.commits[COMMIT_BUCKETS], 0);
    free(view.queues);
    assert_false(spooler_is_full(spooler));
}

static void test_what_is_under_way_at_the_end_is_done(void **state)
{
    (void)state;
    post_append(1, "q", "one");
    close_spooler();
    assert_int_equal(done_count, 1);
    assert_int_equal(done[0].status, STATUS_OK);
    closed = false;
    char found[64];
    open_spooler(found);
}

int main(void)
{
#define WITH_SPOOLER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_SPOOLER(test_what_is_gathered_is_one_commit),
        WITH_SPOOLER(test_a_login_is_sealed_and_found_again),
        WITH_SPOOLER(test_a_login_with_messages_is_not_dropped),
        WITH_SPOOLER(test_a_login_that_has_come_back_is_not_dropped),
        WITH_SPOOLER(test_reads_choose_what_they_bring),
        WITH_SPOOLER(test_publishes_become_mandatory_where_that_is_asked_for),
        WITH_SPOOLER(test_rejected_ones_are_moved),
        WITH_SPOOLER(test_deletes_of_what_is_gone_are_no_error),
        WITH_SPOOLER(test_it_is_told_what_stays_over_damage),
        WITH_SPOOLER(test_one_that_fails_takes_only_its_channel_with_it),
        WITH_SPOOLER(test_more_channels_fail_than_are_remembered),
        cmocka_unit_test_setup_teardown(test_with_nacks_there_is_no_hole_to_fear, setup_reject,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_failed_sync_is_probed_beside_work, setup_interval,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_failed_commit_is_probed_beside_work,
                                        setup_long_interval, teardown),
        cmocka_unit_test_setup_teardown(test_a_sync_that_fails_at_rest_is_probed,
                                        setup_long_interval, teardown),
        WITH_SPOOLER(test_a_transaction_is_all_or_nothing),
        WITH_SPOOLER(test_what_does_not_fit_a_disk_is_tried_one_by_one),
        WITH_SPOOLER(test_a_disk_that_fails_is_tried_twice),
        WITH_SPOOLER(test_an_append_that_fails_is_written_alone),
        WITH_SPOOLER(test_a_fatal_failure_opens_the_store_again),
        WITH_SPOOLER(test_a_lock_that_is_gone_opens_the_store_again),
        WITH_SPOOLER(test_a_file_that_is_gone_is_told),
        WITH_SPOOLER(test_damage_is_passed_over),
        WITH_SPOOLER(test_what_does_not_fit_a_frame_is_known),
        WITH_SPOOLER(test_a_declaration_is_one_frame),
        WITH_SPOOLER(test_room_is_looked_for_after_each_batch),
        WITH_SPOOLER(test_what_is_under_way_at_the_end_is_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
