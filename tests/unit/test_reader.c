/* Reading a spool beside whoever writes it, or from a copy.
 *
 * A process may open an LMDB environment once (closing it again drops the locks of the other), so
 * the store is closed, or in a child, while a reader is open. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/prctl.h>

#include "../support/spool_home.h"
#include "amqpbuf/spool_reader.h"

/* ---- what is seen ---- */

struct look {
    uint64_t seq[SEEN_MAX], body_size[SEEN_MAX], damaged[SEEN_MAX];
    char what[SEEN_MAX][64];
    unsigned count, damaged_count;
    unsigned stop_after;        /* 0: never */
    struct rejection rejection; /* of the last one */
    char text[64];
    bool wants_bodies, is_rejected;
};

static bool see(void *arg, const struct reader_record *r)
{
    struct look *look = arg;
    ENSURE(look->count < SEEN_MAX);
    assert_int_equal(r->queue, 1);
    assert_int_equal(r->kind, RECORD_PUBLISH);
    assert_int_equal(r->received_at_us, 1700000000000000 + r->body_size);
    assert_int_equal(r->method_len, METHOD_BYTES);
    assert_memory_equal(r->method, "method", METHOD_BYTES);
    assert_int_equal(r->header_len, HEADER_BYTES);
    assert_memory_equal(r->header, "content header", HEADER_BYTES);
    assert_int_equal(r->is_rejected, look->is_rejected);
    if (look->wants_bodies)
        assert_true(r->body && is_body(r->body, (size_t)r->body_size));
    else
        assert_null(r->body);
    look->rejection = r->rejection;
    snprintf(look->text, sizeof look->text, "%.*s", (int)r->rejection.text_len, r->rejection.text);
    look->seq[look->count] = r->seq;
    look->body_size[look->count++] = r->body_size;
    return look->count != look->stop_after;
}

static void see_damage(void *arg, uint32_t queue, uint64_t seq, const char *what)
{
    struct look *look = arg;
    ENSURE(look->damaged_count < SEEN_MAX);
    assert_int_equal(queue, 1);
    snprintf(look->what[look->damaged_count], sizeof look->what[0], "%s", what);
    look->damaged[look->damaged_count++] = seq;
}

static struct look look_at(struct reader *reader, uint64_t after, unsigned flags)
{
    struct failure failure = {0};
    struct look look = {.wants_bodies = flags & READER_BODIES,
                        .is_rejected = flags & READER_REJECTED};
    assert_int_equal(reader_records(reader, 1, after, flags, see, see_damage, &look, &failure),
                     STATUS_OK);
    return look;
}

static bool keep_queue(void *arg, const struct reader_queue *queue)
{
    struct reader_queue *kept = arg;
    if (queue->id == kept->id)
        *kept = *queue;
    return true;
}

static struct reader_queue queue_seen(struct reader *reader, uint32_t id)
{
    struct failure failure = {0};
    struct reader_queue queue = {.id = id};
    assert_int_equal(reader_queues(reader, keep_queue, &queue, &failure), STATUS_OK);
    return queue;
}

static struct reader *open_reader(const char *path)
{
    struct failure failure = {0};
    struct reader *reader = NULL;
    assert_int_equal(reader_open(&reader, path, &failure), STATUS_OK);
    return reader;
}

/* ---- queues and messages ---- */

static bool check_logins(void *arg, const struct reader_queue *queue)
{
    static const char *const users[] = {"shop", "shop", "stock"}, *const vhosts[] = {"/", "/x",
                                                                                     "/"};
    unsigned *count = arg;
    ENSURE(*count < 3);
    assert_int_equal(queue->id, *count + 1);
    assert_string_equal(queue->user, users[*count]);
    assert_string_equal(queue->vhost, vhosts[*count]);
    (*count)++;
    return true;
}

static bool stop_at_once(void *arg, const struct reader_queue *queue)
{
    (void)queue;
    (*(unsigned *)arg)++;
    return false;
}

static void test_queues(void **state)
{
    struct home *home = *state;
    struct failure failure = {0};
    unsigned count = 0, stopped = 0;
    home_fill(home, 0, 0);
    home_begin(home);
    home_put_queue(home, "shop", "/x");
    home_put_queue(home, "stock", "/");
    home_commit(home);
    home_close(home);
    struct reader *reader = open_reader(home->spool);
    assert_int_equal(reader_queues(reader, check_logins, &count, &failure), STATUS_OK);
    assert_int_equal(count, 3);
    assert_int_equal(reader_queues(reader, stop_at_once, &stopped, &failure), STATUS_OK);
    assert_int_equal(stopped, 1);
    reader_close(reader);
}

static void test_counters(void **state)
{
    struct home *home = *state;
    uint32_t id = home_fill(home, 3, 10);
    home_begin(home);
    home_append(home, id, 20);
    home_append(home, id, 5000);
    assert_int_equal(store_delete(home->store, id, 1, &home->failure), STATUS_OK);
    home_commit(home);
    home_close(home);
    struct reader *reader = open_reader(home->spool);
    struct reader_queue queue = queue_seen(reader, id);
    assert_int_equal(queue.messages, 4);
    assert_int_equal(queue.bytes, 4 * (METHOD_BYTES + HEADER_BYTES) + 10 + 10 + 20 + 5000);
    assert_int_equal(queue.first_seq, 2);
    assert_int_equal(queue.last_seq, 5);
    assert_int_equal(queue.next_seq, 6);
    assert_int_equal(queue.oldest_at_us, 1700000000000010);
    assert_int_equal(queue.newest_at_us, 1700000000005000);
    assert_int_equal(queue.rejected, 0);
    reader_close(reader);
}

static void test_empty_queue(void **state)
{
    struct home *home = *state;
    uint32_t id = home_fill(home, 0, 0);
    home_close(home);
    struct reader *reader = open_reader(home->spool);
    struct reader_queue queue = queue_seen(reader, id);
    assert_int_equal(queue.first_seq, 0);
    assert_int_equal(queue.last_seq, 0);
    assert_int_equal(queue.oldest_at_us, 0);
    assert_int_equal(queue.newest_at_us, 0);
    assert_int_equal(queue.next_seq, 1);
    assert_int_equal(look_at(reader, 0, READER_BODIES).count, 0);
    assert_int_equal(look_at(reader, 0, READER_REJECTED).count, 0);
    reader_close(reader);
}

static void test_messages(void **state)
{
    struct home *home = *state;
    static const size_t sizes[] = {
        0, 1, RECORD_INLINE_MAX, RECORD_INLINE_MAX + 1, 100000, 5 * 1024 * 1024 + 3};
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    uint32_t id = home_fill(home, 0, 0);
    home_begin(home);
    for (unsigned i = 0; i < COUNT; i++)
        home_append(home, id, sizes[i]);
    home_commit(home);
    home_close(home);
    struct reader *reader = open_reader(home->spool);
    for (unsigned flags = 0; flags <= READER_BODIES; flags += READER_BODIES) {
        struct look look = look_at(reader, 0, flags);
        assert_int_equal(look.count, COUNT);
        assert_int_equal(look.damaged_count, 0);
        for (unsigned i = 0; i < COUNT; i++) {
            assert_int_equal(look.seq[i], i + 1);
            assert_int_equal(look.body_size[i], sizes[i]);
        }
    }
    assert_int_equal(look_at(reader, 4, READER_BODIES).seq[0], 5);
    assert_int_equal(look_at(reader, COUNT, READER_BODIES).count, 0);
    reader_close(reader);
}

static void test_stop(void **state)
{
    struct home *home = *state;
    struct look look = {.stop_after = 2};
    home_fill(home, 5, 10);
    home_close(home);
    struct reader *reader = open_reader(home->spool);
    assert_int_equal(reader_records(reader, 1, 0, 0, see, see_damage, &look, &home->failure),
                     STATUS_OK);
    assert_int_equal(look.count, 2);
    reader_close(reader);
}

struct count {
    uint64_t records, last;
    bool is_ordered;
};

static bool count_record(void *arg, const struct reader_record *r)
{
    struct count *count = arg;
    count->is_ordered = count->is_ordered && r->seq == count->last + 1;
    count->last = r->seq;
    count->records++;
    return true;
}

/* More than a batch by number, and more than one by bytes. */
static void test_batches(void **state)
{
    struct home *home = *state;
    enum { SMALL = 2 * READER_BATCH_RECORDS + 1, LARGE = 5, LARGE_BYTES = READER_BATCH_BYTES / 2 };
    uint32_t id = home_fill(home, SMALL, 10);
    home_begin(home);
    for (unsigned i = 0; i < LARGE; i++)
        home_append(home, id, LARGE_BYTES);
    home_commit(home);
    home_close(home);
    struct count count = {.is_ordered = true};
    struct reader *reader = open_reader(home->spool);
    assert_int_equal(reader_records(reader, id, 0, READER_BODIES, count_record, see_damage, &count,
                                    &home->failure),
                     STATUS_OK);
    assert_int_equal(count.records, SMALL + LARGE);
    assert_true(count.is_ordered);
    reader_close(reader);
}

static void test_usage(void **state)
{
    struct home *home = *state;
    uint64_t used, max;
    home_fill(home, 1, 1000000);
    home_close(home);
    struct reader *reader = open_reader(home->spool);
    reader_usage(reader, &used, &max);
    assert_int_equal(max, HOME_MAX_SIZE);
    assert_true(used > 1000000 && used < 1200000);
    reader_close(reader);
}

/* ---- rejected ---- */

static void test_rejected(void **state)
{
    struct home *home = *state;
    struct rejection no_route = {.code = 312, .text = "NO_ROUTE", .text_len = 8, .at_us = 11},
                     nack = {.code = 0, .text = "", .text_len = 0, .at_us = 22},
                     not_found = {.code = 404,
                                  .text = "NOT_FOUND - no exchange 'x' in vhost '/'",
                                  .text_len = 40,
                                  .at_us = UINT64_C(1700000000000000)};
    uint8_t *body = make_body(7000);
    struct iovec iov = {body, 7000};
    struct store_message message = {.kind = RECORD_PUBLISH,
                                    .received_at_us = 1700000000007000,
                                    .method = text("method"),
                                    .header = text("content header"),
                                    .body = &iov,
                                    .body_count = 1};
    uint64_t seq;
    uint32_t id = home_fill(home, 2, 10);
    home_begin(home);
    home_append(home, id, 5 * 1024 * 1024);
    assert_int_equal(
        store_append_rejected(home->store, id, &message, &not_found, &seq, &home->failure),
        STATUS_OK);
    assert_int_equal(store_reject(home->store, id, 3, &nack, &home->failure), STATUS_OK);
    assert_int_equal(store_reject(home->store, id, 1, &no_route, &home->failure), STATUS_OK);
    home_commit(home);
    free(body);
    home_close(home);

    struct reader *reader = open_reader(home->spool);
    struct look look = look_at(reader, 0, READER_REJECTED | READER_BODIES);
    assert_int_equal(look.count, 3);
    assert_int_equal(look.damaged_count, 0);
    assert_int_equal(look.seq[0], 1);
    assert_int_equal(look.seq[1], 3);
    assert_int_equal(look.body_size[1], 5 * 1024 * 1024);
    assert_int_equal(look.seq[2], 4);
    assert_int_equal(look.body_size[2], 7000);
    assert_int_equal(look.rejection.code, 404);
    assert_string_equal(look.text, "NOT_FOUND - no exchange 'x' in vhost '/'");
    assert_int_equal(look.rejection.at_us, 1700000000000000);

    struct look first = {.stop_after = 1, .is_rejected = true};
    assert_int_equal(
        reader_records(reader, id, 0, READER_REJECTED, see, see_damage, &first, &home->failure),
        STATUS_OK);
    assert_int_equal(first.rejection.code, 312);
    assert_string_equal(first.text, "NO_ROUTE");
    assert_int_equal(first.rejection.at_us, 11);
    first = (struct look){.stop_after = 1, .is_rejected = true};
    assert_int_equal(
        reader_records(reader, id, 2, READER_REJECTED, see, see_damage, &first, &home->failure),
        STATUS_OK);
    assert_int_equal(first.rejection.code, 0);
    assert_string_equal(first.text, "");
    assert_int_equal(first.rejection.at_us, 22);

    look = look_at(reader, 0, READER_BODIES);
    assert_int_equal(look.count, 1);
    assert_int_equal(look.seq[0], 2);
    assert_int_equal(queue_seen(reader, id).rejected, 3);
    assert_int_equal(queue_seen(reader, id).messages, 1);
    reader_close(reader);
}

/* ---- what cannot be opened ---- */

static void test_no_spool(void **state)
{
    struct home *home = *state;
    struct reader *reader = NULL;
    assert_int_equal(reader_open(&reader, home->spool, &home->failure), STATUS_NO_SPOOL);
    assert_non_null(strstr(home->failure.text, home->spool));
    assert_int_equal(reader_open(&reader, home->top, &home->failure), STATUS_NO_SPOOL);
    assert_int_equal(rmdir(home->top), 0); /* and it has left nothing there */
    assert_int_equal(mkdir(home->top, 0700), 0);
}

static void test_other_environment(void **state)
{
    struct home *home = *state;
    struct reader *reader = NULL;
    MDB_env *env;
    assert_int_equal(mkdir(home->spool, 0700), 0);
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_open(env, home->spool, 0, 0600), 0);
    mdb_env_close(env);
    assert_int_equal(reader_open(&reader, home->spool, &home->failure), STATUS_NO_SPOOL);
}

static void test_newer_version(void **state)
{
    struct home *home = *state;
    struct reader *reader = NULL;
    home_fill(home, 1, 10);
    home_close(home);
    struct backdoor door = backdoor_open(home, "meta");
    backdoor_put(&door, "version", 7, (const uint8_t[]){0, 0, 0, SPOOL_FORMAT_VERSION + 1}, 4);
    backdoor_close(&door);
    assert_int_equal(reader_open(&reader, home->spool, &home->failure), STATUS_VERSION);
    assert_non_null(strstr(home->failure.text, "version 3"));
}

static void test_not_lmdb(void **state)
{
    struct home *home = *state;
    struct reader *reader = NULL;
    char name[128];
    char junk[16384];
    memset(junk, 'x', sizeof junk);
    assert_int_equal(mkdir(home->spool, 0700), 0);
    snprintf(name, sizeof name, "%s/data.mdb", home->spool);
    int fd = open(name, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, junk, sizeof junk), sizeof junk);
    close(fd);
    assert_int_equal(reader_open(&reader, home->spool, &home->failure), STATUS_DAMAGED);
}

/* ---- damage ---- */

static void test_damage(void **state)
{
    struct home *home = *state;
    uint8_t key[RECORD_KEY_BYTES], part[RECORD_PART_KEY_BYTES];
    home_fill(home, 5, 10000);
    home_close(home);
    record_key(key, 1, 2);
    backdoor_flip(home, "messages", key, sizeof key);
    record_part_key(part, 1, 3, 2);
    backdoor_remove(home, "parts", part, sizeof part);
    record_part_key(part, 1, 4, 3);
    backdoor_flip(home, "parts", part, sizeof part);

    struct reader *reader = open_reader(home->spool);
    struct look look = look_at(reader, 0, READER_BODIES);
    assert_int_equal(look.count, 2);
    assert_int_equal(look.seq[0], 1);
    assert_int_equal(look.seq[1], 5);
    assert_int_equal(look.damaged_count, 3);
    assert_int_equal(look.damaged[0], 2);
    assert_string_equal(look.what[0], "wrong checksum");
    assert_int_equal(look.damaged[1], 3);
    assert_string_equal(look.what[1], "a part of the body is missing");
    assert_int_equal(look.damaged[2], 4);
    assert_string_equal(look.what[2], "wrong checksum of a part of the body");

    look = look_at(reader, 0, 0); /* without bodies, parts are not looked at */
    assert_int_equal(look.count, 4);
    assert_int_equal(look.damaged_count, 1);
    reader_close(reader);
}

static void test_damage_among_rejected(void **state)
{
    struct home *home = *state;
    struct rejection rejection = {.code = 312, .text = "NO_ROUTE", .text_len = 8, .at_us = 1};
    uint8_t key[RECORD_KEY_BYTES];
    uint32_t id = home_fill(home, 3, 10);
    home_begin(home);
    for (uint64_t seq = 1; seq <= 3; seq++)
        assert_int_equal(store_reject(home->store, id, seq, &rejection, &home->failure), STATUS_OK);
    home_commit(home);
    home_close(home);
    record_key(key, 1, 2);
    backdoor_flip(home, "rejected", key, sizeof key);
    struct reader *reader = open_reader(home->spool);
    struct look look = look_at(reader, 0, READER_REJECTED);
    assert_int_equal(look.count, 2);
    assert_int_equal(look.damaged_count, 1);
    assert_int_equal(look.damaged[0], 2);
    reader_close(reader);
}

/* ---- beside a writer ---- */

struct writer {
    pid_t pid;
    int orders, answers;
};

/* Each order: one more message is committed, and the one before the last deleted. */
static void write_on_orders(struct home *home, int orders, int answers)
{
    char order;
    uint64_t seq;
    uint32_t queue;
    ENSURE(home_try_open(home, HOME_MAX_SIZE) == STATUS_OK);
    while (read(orders, &order, 1) == 1) {
        ENSURE(store_begin(home->store, NULL) == STATUS_OK);
        ENSURE(store_queue_put(home->store, "shop", "/", (const uint8_t *)"sealed", 6, &queue,
                               NULL) == STATUS_OK);
        ENSURE(home_try_append(home, queue, 100000, &seq) == STATUS_OK);
        if (seq > 2)
            ENSURE(store_delete(home->store, queue, seq - 2, NULL) == STATUS_OK);
        ENSURE(store_commit(home->store, NULL) == STATUS_OK);
        ENSURE(write(answers, "x", 1) == 1);
    }
    store_close(home->store);
    _exit(0);
}

static struct writer start_writer(struct home *home)
{
    int orders[2], answers[2];
    assert_int_equal(pipe(orders), 0);
    assert_int_equal(pipe(answers), 0);
    struct writer writer = {.pid = fork(), .orders = orders[1], .answers = answers[0]};
    assert_true(writer.pid >= 0);
    if (writer.pid == 0) {
        close(orders[1]);
        close(answers[0]);
        write_on_orders(home, orders[0], answers[1]);
    }
    close(orders[0]);
    close(answers[1]);
    return writer;
}

static void order(struct writer *writer)
{
    char answer;
    assert_int_equal(write(writer->orders, "x", 1), 1);
    assert_int_equal(read(writer->answers, &answer, 1), 1);
}

static void stop_writer(struct writer *writer)
{
    int status;
    close(writer->orders);
    assert_int_equal(waitpid(writer->pid, &status, 0), writer->pid);
    close(writer->answers);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_beside_a_writer(void **state)
{
    struct home *home = *state;
    struct writer writer = start_writer(home);
    order(&writer);
    struct reader *reader = open_reader(home->spool); /* after the queue is there */
    for (uint64_t last = 1; last <= 50; last++) {
        struct look look = look_at(reader, 0, READER_BODIES);
        uint64_t first = last > 2 ? last - 1 : 1;
        assert_int_equal(look.damaged_count, 0);
        assert_int_equal(look.count, last - first + 1);
        assert_int_equal(look.seq[0], first);
        assert_int_equal(queue_seen(reader, 1).last_seq, last);
        assert_int_equal(queue_seen(reader, 1).messages, last - first + 1);
        order(&writer);
    }
    reader_close(reader);
    stop_writer(&writer);
}

struct slow {
    struct writer *writer;
    uint64_t used_first, used_last;
    struct reader *reader;
};

/* A visitor that takes its time: the writer goes on meanwhile. */
static bool visit_slowly(void *arg, const struct reader_record *r)
{
    struct slow *slow = arg;
    uint64_t max;
    (void)r;
    reader_usage(slow->reader, &slow->used_first, &max);
    for (unsigned i = 0; i < 100; i++)
        order(slow->writer);
    reader_usage(slow->reader, &slow->used_last, &max);
    return false;
}

static size_t file_size(const struct home *home)
{
    char name[128];
    struct stat st;
    snprintf(name, sizeof name, "%s/data.mdb", home->spool);
    assert_int_equal(stat(name, &st), 0);
    return (size_t)st.st_size;
}

/* A reader in the middle of a visit keeps no page from being used again. */
static void test_no_brake_on_the_writer(void **state)
{
    struct home *home = *state;
    struct writer writer = start_writer(home);
    for (unsigned i = 0; i < 10; i++)
        order(&writer);
    struct reader *reader = open_reader(home->spool);
    struct slow slow = {.writer = &writer, .reader = reader};
    assert_int_equal(reader_records(reader, 1, 0, READER_BODIES, visit_slowly, see_damage, &slow,
                                    &home->failure),
                     STATUS_OK);
    assert_true(slow.used_last <= slow.used_first + 100000);
    assert_true(file_size(home) < 30 * 100000); /* 100 messages went through */
    reader_close(reader);
    stop_writer(&writer);
}

/* In a container of its own a reader may have the number that the proxy has in another. */
static void test_pid_that_is_taken(void **state)
{
    struct home *home = *state;
    char name[128];
    int told[2];
    char byte;
    home_fill(home, 1, 10);
    home_close(home);
    snprintf(name, sizeof name, "%s/lock.mdb", home->spool);
    assert_int_equal(pipe(told), 0);
    pid_t parent = getpid(), child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct flock lock = {
            .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = parent, .l_len = 1};
        int fd = open(name, O_RDWR);
        ENSURE(fd >= 0 && fcntl(fd, F_SETLK, &lock) == 0);
        ENSURE(write(told[1], "x", 1) == 1);
        for (;;)
            pause();
    }
    close(told[1]);
    assert_int_equal(read(told[0], &byte, 1), 1);
    close(told[0]);
    struct reader *reader = NULL;
    assert_int_equal(reader_open(&reader, home->spool, &home->failure), STATUS_IN_USE);
    assert_non_null(strstr(home->failure.text, "another container"));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    reader_close(open_reader(home->spool));
}

static void test_larger_map(void **state)
{
    struct home *home = *state;
    int ends[2], status;
    char told;
    home_fill(home, 1, 10);
    home_close(home);
    struct reader *reader = open_reader(home->spool);
    assert_int_equal(look_at(reader, 0, 0).count, 1);
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) { /* amqpbuf is started again, with a larger spool.max_size */
        uint64_t seq;
        ENSURE(home_try_open(home, 4 * UINT64_C(1) * HOME_MAX_SIZE) == STATUS_OK);
        ENSURE(store_begin(home->store, NULL) == STATUS_OK);
        ENSURE(home_try_append(home, 1, (size_t)HOME_MAX_SIZE + 1, &seq) == STATUS_OK);
        ENSURE(store_commit(home->store, NULL) == STATUS_OK);
        ENSURE(write(ends[1], "x", 1) == 1);
        store_close(home->store);
        _exit(0);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &told, 1), 1);
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    struct look look = look_at(reader, 0, READER_BODIES);
    assert_int_equal(look.count, 2);
    assert_int_equal(look.body_size[1], HOME_MAX_SIZE + 1);
    reader_close(reader);
}

/* ---- copies ---- */

static void copy_file(const char *from_directory, const char *to_directory, const char *name)
{
    char from_name[128], to_name[128], bytes[65536];
    snprintf(from_name, sizeof from_name, "%s/%s", from_directory, name);
    snprintf(to_name, sizeof to_name, "%s/%s", to_directory, name);
    int from = open(from_name, O_RDONLY), to = open(to_name, O_WRONLY | O_CREAT, 0644);
    assert_true(from >= 0 && to >= 0);
    for (ssize_t n; (n = read(from, bytes, sizeof bytes)) > 0;)
        assert_int_equal(write(to, bytes, (size_t)n), n);
    close(from);
    assert_int_equal(fchmod(to, 0444), 0);
    close(to);
}

/* In a child, and as nobody if this is root, whom modes do not stop. */
static bool reads_as_nobody(const char *path)
{
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        enum { NOBODY = 65534 };
        struct failure failure = {0};
        struct reader *reader = NULL;
        struct count count = {.is_ordered = true};
        if (geteuid() == 0)
            ENSURE(setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
        ENSURE(access(path, W_OK) != 0);
        bool is_read = reader_open(&reader, path, &failure) == STATUS_OK;
        if (!is_read)
            fprintf(stderr, "%s\n", failure.text);
        is_read = is_read && reader_records(reader, 1, 0, READER_BODIES, count_record, see_damage,
                                            &count, &failure) == STATUS_OK;
        _exit(is_read && count.records == 3 ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void read_a_copy(struct home *home, bool with_lock_file)
{
    char copy[80];
    home_fill(home, 3, 10000);
    home_close(home);
    snprintf(copy, sizeof copy, "%s/copy", home->top);
    assert_int_equal(mkdir(copy, 0700), 0);
    copy_file(home->spool, copy, "data.mdb");
    if (with_lock_file)
        copy_file(home->spool, copy, "lock.mdb");
    assert_int_equal(chmod(home->top, 0755), 0);
    assert_int_equal(chmod(copy, 0555), 0);
    assert_true(reads_as_nobody(copy));
}

static void test_read_only_copy(void **state)
{
    read_a_copy(*state, false);
}

static void test_read_only_copy_with_lock_file(void **state)
{
    read_a_copy(*state, true);
}

/* ---- Ctrl-Z ---- */

enum { STOPS = 300 };

static bool see_nothing(void *arg, const struct reader_record *r)
{
    (void)arg, (void)r;
    return true;
}

static void read_for_ever(const struct home *home, int told)
{
    struct reader *reader;
    struct failure failure;
    ENSURE(reader_open(&reader, home->spool, &failure) == STATUS_OK);
    ENSURE(write(told, "y", 1) == 1);
    for (;;)
        ENSURE(reader_records(reader, 1, 0, READER_BODIES, see_nothing, see_damage, NULL,
                              &failure) == STATUS_OK);
}

static int count_reading(const char *line, void *arg)
{
    size_t txnid;
    int pid;
    *(unsigned *)arg += sscanf(line, "%d %*x %zu", &pid, &txnid) == 2;
    return 0;
}

static void test_stopped_between_transactions(void **state)
{
    struct home *home = *state;
    MDB_env *env;
    int told[2], status;
    char byte;
    home_fill(home, 40, 100000);
    home_close(home);
    assert_int_equal(pipe(told), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setpgid(0, 0); /* else the kernel may take it for an orphan, which nothing stops */
        read_for_ever(home, told[1]);
    }
    assert_int_equal(read(told[0], &byte, 1), 1);
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_open(env, home->spool, MDB_RDONLY | MDB_NOTLS, 0600), 0);
    for (unsigned i = 0; i < STOPS; i++) {
        unsigned reading = 0;
        assert_int_equal(kill(child, SIGTSTP), 0);
        assert_int_equal(waitpid(child, &status, WUNTRACED), child);
        assert_true(WIFSTOPPED(status));
        mdb_reader_list(env, count_reading, &reading);
        assert_int_equal(reading, 0);
        assert_int_equal(kill(child, SIGCONT), 0);
        usleep(i * 31 % 1000); /* it is stopped at another place each time */
    }
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    mdb_env_close(env);
}

#define WITH_HOME(test) cmocka_unit_test_setup_teardown(test, home_setup, home_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_HOME(test_stopped_between_transactions),
        WITH_HOME(test_queues),
        WITH_HOME(test_counters),
        WITH_HOME(test_empty_queue),
        WITH_HOME(test_messages),
        WITH_HOME(test_stop),
        WITH_HOME(test_batches),
        WITH_HOME(test_usage),
        WITH_HOME(test_rejected),
        WITH_HOME(test_no_spool),
        WITH_HOME(test_other_environment),
        WITH_HOME(test_newer_version),
        WITH_HOME(test_not_lmdb),
        WITH_HOME(test_damage),
        WITH_HOME(test_damage_among_rejected),
        WITH_HOME(test_beside_a_writer),
        WITH_HOME(test_no_brake_on_the_writer),
        WITH_HOME(test_pid_that_is_taken),
        WITH_HOME(test_larger_map),
        WITH_HOME(test_read_only_copy),
        WITH_HOME(test_read_only_copy_with_lock_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
