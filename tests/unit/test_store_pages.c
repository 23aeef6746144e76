/* Damaged pages: each page of a spool in turn is zeroed, filled with noise, or put in place of
 * another. What is on it is lost; nothing ends, and what can be read is read. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/spool_home.h"
#include "amqpbuf/spool_reader.h"

enum { PAGE = 4096, SMALL = 60, LARGE = 3, EACH = SMALL + LARGE, QUEUES = 2 };

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

/* Two queues, interleaved, with free pages: some of what was there is deleted. */
static struct image make(struct home *home)
{
    static const char *const users[] = {"alice", "bob"};
    assert_int_equal(open_quickly(home), STATUS_OK);
    for (unsigned n = 0; n < EACH + 20; n++) {
        home_begin(home);
        for (unsigned q = 0; q < QUEUES; q++) {
            uint32_t queue = home_put_queue(home, users[q], "/");
            home_append(home, queue, n < 20 || n >= 20 + LARGE ? 300 + n : 20000);
        }
        home_commit(home);
    }
    home_begin(home);
    for (uint32_t queue = 1; queue <= QUEUES; queue++)
        for (uint64_t seq = 1; seq <= 20; seq++)
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
    uint64_t seqs[EACH];
    unsigned count;
};

static bool see(void *arg, const struct store_record *record)
{
    struct whole *seen = arg;
    ENSURE(seen->count < EACH);
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
    if (store_read(home->store, queue, 0, see, see_damage, &seen, &home->failure) != STATUS_OK)
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

static void test_each_page(void **state)
{
    struct home *home = *state;
    struct image good = make(home);
    unsigned served = 0, whole = 0, all = 0;
    for (size_t page = 2; page < good.len / PAGE; page++) {
        for (unsigned how = 0; how < 5; how++) {
            struct image bad = {malloc(good.len), good.len};
            ENSURE(bad.bytes);
            memcpy(bad.bytes, good.bytes, good.len);
            damage(&bad, page, how);
            save(home, &bad);
            free(bad.bytes);
            unsigned shown[] = {inspect(home, 1), inspect(home, 2)};
            all++;
            if (open_quickly(home) != STATUS_OK) {
                assert_true(home->failure.text[0] != 0);
                continue;
            }
            served++;
            unsigned seen[] = {use(home, 1), use(home, 2)};
            home_close(home);
            /* A page is of one queue: the other has all. */
            assert_true(seen[0] == EACH || seen[1] == EACH);
            assert_true(shown[0] == EACH || shown[1] == EACH);
            whole += seen[0] == EACH && seen[1] == EACH;
        }
    }
    free(good.bytes);
    assert_true(served >= all * 9 / 10); /* but for what all queues hang on */
    assert_true(whole < served);
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
