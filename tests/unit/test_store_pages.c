/* Damaged pages: each page of a spool in turn is zeroed, filled with noise, or put in place of
 * another. What is on it is lost; nothing ends, and what can be read is read. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/spool_home.h"
#include "amqpbuf/spool_reader.h"

/* Messages of 300 bytes and more, or parts of so many large ones. */
enum { PAGE = 4096, GONE = 20, EACH_MAX = 64, ON_A_PAGE = 12, WAYS = 5 };

struct shape {
    unsigned queues, small, large; /* messages of each queue */
    unsigned roots;                /* pages that more hangs on than lies on one */
};

struct image {
    uint8_t *bytes;
    size_t len;
};

static void name_data(const struct home *home, char name[128])
{
    snprintf(name, 128, "%s/data.mdb", home->spool);
}

static struct image load(const struct home *home)
{
    char name[128];
    struct stat st;
    name_data(home, name);
    int fd = open(name, O_RDONLY);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    struct image image = {malloc((size_t)st.st_size), (size_t)st.st_size};
    ENSURE(image.bytes);
    assert_int_equal(read(fd, image.bytes, image.len), (ssize_t)image.len);
    close(fd);
    return image;
}

static void save(const struct home *home, const struct image *image)
{
    char name[128];
    name_data(home, name);
    int fd = open(name, O_WRONLY | O_TRUNC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, image->bytes, image->len), (ssize_t)image->len);
    close(fd);
}

static enum status open_quickly(struct home *home)
{
    struct store_options options = {
        .path = home->spool, .max_size_bytes = HOME_MAX_SIZE, .sync = STORE_SYNC_NEVER};
    enum status status = store_open(&home->store, &options, &home->failure);
    if (status != STATUS_OK)
        home->store = NULL;
    return status;
}

/* Queues, interleaved, with free pages: some of what was there is deleted. */
static struct image make(struct home *home, const struct shape *shape)
{
    assert_int_equal(open_quickly(home), STATUS_OK);
    for (unsigned n = 0; n < GONE + shape->large + shape->small; n++) {
        home_begin(home);
        for (unsigned q = 0; q < shape->queues; q++) {
            char user[16];
            snprintf(user, sizeof user, "user-%u", q);
            uint32_t queue = home_put_queue(home, user, "/");
            bool is_large = n >= GONE && n < GONE + shape->large;
            home_append(home, queue, is_large ? 20000 : 300 + n);
        }
        home_commit(home);
    }
    home_begin(home);
    for (uint32_t queue = 1; queue <= shape->queues; queue++)
        for (uint64_t seq = 1; seq <= GONE; seq++)
            assert_int_equal(store_delete(home->store, queue, seq, &home->failure), STATUS_OK);
    home_commit(home);
    home_close(home);
    return load(home);
}

static void damage(struct image *image, size_t page, unsigned how)
{
    uint8_t *at = image->bytes + page * PAGE;
    size_t other = 2 + (page * 7 + 3) % (image->len / PAGE - 2);
    switch (how) {
    case 0:
        memset(at, 0, PAGE);
        return;
    case 1:
        for (size_t i = 0; i < PAGE; i++)
            at[i] = body_byte(page * PAGE + i);
        return;
    case 2:
        memcpy(at, image->bytes + other * PAGE, PAGE);
        return;
    default: /* one field of the page's header, or of its first pointers */
        at[8 + page % 32] ^= (uint8_t)(1u << how);
    }
}

struct whole {
    uint64_t seqs[EACH_MAX];
    unsigned count;
};

static bool see(void *arg, const struct store_record *record)
{
    struct whole *seen = arg;
    ENSURE(seen->count < EACH_MAX);
    seen->seqs[seen->count++] = record->seq;
    return true;
}

static void see_damage(void *arg, uint64_t seq)
{
    (void)arg, (void)seq;
}

/* As a drain does: reads, deletes, puts something behind it. Returns how many it saw. */
static unsigned use(struct home *home, uint32_t queue)
{
    struct whole seen = {0};
    uint64_t seq;
    struct store_visitor visitor = {.visit = see, .damaged = see_damage, .arg = &seen};
    if (store_read(home->store, queue, 0, &visitor, &home->failure) != STATUS_OK)
        return 0;
    for (unsigned i = 0; i < seen.count; i++) {
        if (store_begin(home->store, &home->failure) != STATUS_OK)
            break;
        enum status status = store_delete(home->store, queue, seen.seqs[i], &home->failure);
        if (status == STATUS_OK || status == STATUS_INVALID || status == STATUS_NOT_FOUND)
            (void)store_commit(home->store, &home->failure);
        else
            store_abort(home->store);
    }
    if (store_begin(home->store, &home->failure) == STATUS_OK) {
        enum status status = home_try_append(home, queue, 100, &seq);
        if (status == STATUS_OK || status == STATUS_INVALID)
            (void)store_commit(home->store, &home->failure);
        else
            store_abort(home->store);
    }
    return seen.count;
}

static bool count_one(void *arg, const struct reader_record *record)
{
    (void)record;
    ++*(unsigned *)arg;
    return true;
}

static void pass(void *arg, uint32_t queue, uint64_t seq, const char *what)
{
    (void)arg, (void)queue, (void)seq;
    assert_non_null(what);
}

/* What amqpbuf-inspect sees of it. */
static unsigned inspect(struct home *home, uint32_t queue)
{
    struct reader *reader;
    unsigned count = 0;
    if (reader_open(&reader, home->spool, &home->failure) != STATUS_OK)
        return 0;
    (void)reader_records(reader, queue, 0, READER_BODIES, count_one, pass, &count, &home->failure);
    reader_close(reader);
    return count;
}

/* A new login beside what is damaged. */
static void use_new(struct home *home)
{
    uint64_t seq;
    if (store_begin(home->store, &home->failure) != STATUS_OK)
        return;
    enum status status = home_try_append(home, home_put_queue(home, "new", "/"), 100, &seq);
    if (status == STATUS_OK || status == STATUS_INVALID)
        (void)store_commit(home->store, &home->failure);
    else
        store_abort(home->store);
}

static void assert_each_page(struct home *home, const struct shape *shape)
{
    struct image good = make(home, shape);
    unsigned served = 0, whole = 0, wide = 0, all = 0;
    for (size_t page = 2; page < good.len / PAGE; page++) {
        for (unsigned how = 0; how < WAYS; how++) {
            struct image bad = {malloc(good.len), good.len};
            unsigned shown = 0, seen = 0;
            ENSURE(bad.bytes);
            memcpy(bad.bytes, good.bytes, good.len);
            damage(&bad, page, how);
            save(home, &bad);
            free(bad.bytes);
            for (uint32_t queue = 1; queue <= shape->queues; queue++)
                shown += inspect(home, queue);
            all++;
            if (open_quickly(home) != STATUS_OK) {
                assert_true(home->failure.text[0] != 0);
                continue;
            }
            served++;
            for (uint32_t queue = 1; queue <= shape->queues; queue++)
                seen += use(home, queue);
            use_new(home);
            home_close(home);
            /* A page in the place of another may show what was deleted. */
            unsigned there = shape->queues * (shape->small + shape->large);
            whole += seen >= there && shown >= there;
            wide += seen + ON_A_PAGE < there || shown + ON_A_PAGE < there;
        }
    }
    free(good.bytes);
    assert_true(served >= all * 9 / 10); /* but for what all queues hang on */
    assert_true(whole < served);
    assert_true(wide <= shape->roots * WAYS); /* what is damaged is lost, and no more */
}

/* In one test: each that cmocka runs takes SIGSEGV for itself, and the guard takes it once. */
static void test_each_page(void **state)
{
    static const struct shape shapes[] = {
        {.queues = 2, .small = 60, .large = 3, .roots = 2},
        {.queues = 40, .small = 3, .large = 0, .roots = 1}, /* several on each page */
    };
    struct home *home = *state;
    for (unsigned i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        assert_each_page(home, &shapes[i]);
        remove_tree(home->spool);
    }
}

/* In memory: hundreds of spools are opened, and each opening syncs its directory. */
static int setup_in_memory(void **state)
{
    home_setup(state);
    struct home *home = *state;
    if (access("/dev/shm", W_OK) != 0)
        return 0;
    ENSURE(rmdir(home->top) == 0);
    snprintf(home->top, sizeof home->top, "/dev/shm/amqpbuf-test-XXXXXX");
    ENSURE(mkdtemp(home->top));
    snprintf(home->spool, sizeof home->spool, "%s/spool", home->top);
    return 0;
}

#define WITH_HOME(test) cmocka_unit_test_setup_teardown(test, setup_in_memory, home_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_HOME(test_each_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
