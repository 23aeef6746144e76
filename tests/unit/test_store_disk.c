/* A file system of its own that is really full, with real holes: a tmpfs in a mount namespace. Disk
 * space that was given back is there again for what LMDB writes next, above all for deletions. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>

#include "../support/spool_home.h"

enum {
    MAX_SIZE = 256 * 1024 * 1024,
    BODY_BYTES = 3000, /* a record fills a page */
    FIRST = 14000,
    LAST = 6000,
    STEP_NS = 2 * 1000 * 1000,
    MIB = 1024 * 1024,
};

/* In this process alone. Who is not root becomes root of a namespace of users first. */
static void be_alone_with_mounts(void)
{
    if (unshare(CLONE_NEWNS) != 0)
        assert_int_equal(unshare(CLONE_NEWUSER | CLONE_NEWNS), 0);
    assert_int_equal(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
}

static int setup(void **state)
{
    home_setup(state);
    struct home *home = *state;
    return mount("none", home->top, "tmpfs", 0, "size=240m,mode=700");
}

static int teardown(void **state)
{
    struct home *home = *state;
    char top[sizeof home->top];
    memcpy(top, home->top, sizeof top);
    store_close(home->store);
    home->store = NULL;
    umount2(top, MNT_DETACH);
    return home_teardown(state);
}

static uint64_t blocks(const struct home *home)
{
    char name[128];
    struct stat st;
    snprintf(name, sizeof name, "%s/data.mdb", home->spool);
    assert_int_equal(stat(name, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void fill(struct home *home, uint32_t queue, unsigned count)
{
    for (unsigned n = 0; n < count;) {
        home_begin(home);
        for (unsigned i = 0; i < 500 && n < count; i++, n++)
            home_append(home, queue, BODY_BYTES);
        home_commit(home);
    }
}

static bool nobody_waits(void *arg)
{
    (void)arg;
    return false;
}

static void give_back_some(struct home *home)
{
    assert_int_equal(store_give_back(home->store, STEP_NS, nobody_waits, NULL, &home->failure),
                     STATUS_OK);
}

/* As a drain does it, with what the spooler does behind each batch. */
static void empty(struct home *home, uint32_t queue, uint64_t count, uint64_t batch)
{
    for (uint64_t seq = 1; seq <= count;) {
        home_begin(home);
        for (uint64_t i = 0; i < batch && seq <= count; i++, seq++)
            assert_int_equal(store_delete(home->store, queue, seq, &home->failure), STATUS_OK);
        home_commit(home);
        (void)store_has_room(home->store);
        if (store_gives_back(home->store, true))
            give_back_some(home);
    }
}

static void give_back(struct home *home)
{
    assert_int_equal(store_rest(home->store, &home->failure), STATUS_OK);
    while (store_gives_back(home->store, false))
        give_back_some(home);
}

static void fill_disk(const struct home *home)
{
    static const uint8_t bytes[65536];
    char name[128];
    snprintf(name, sizeof name, "%s/others", home->top);
    int fd = open(name, O_WRONLY | O_CREAT | O_APPEND, 0600);
    assert_true(fd >= 0);
    for (size_t len = sizeof bytes; len > 0; len /= 2)
        while (write(fd, bytes, len) > 0)
            ;
    assert_int_equal(errno, ENOSPC);
    close(fd);
}

static unsigned append_until_refused(struct home *home, uint32_t queue)
{
    uint64_t seq;
    unsigned count = 0;
    home_begin(home);
    while (home_try_append(home, queue, BODY_BYTES, &seq) == STATUS_OK)
        count++;
    home_commit(home);
    return count;
}

/* Two queues side by side in the file, and a third behind them. */
static void put_three(struct home *home, uint32_t queues[3])
{
    static const char *const users[] = {"a", "b", "c"};
    assert_int_equal(home_try_open(home, MAX_SIZE), STATUS_OK);
    home_begin(home);
    for (unsigned i = 0; i < 3; i++)
        queues[i] = home_put_queue(home, users[i], "/");
    home_commit(home);
    for (unsigned n = 0; n < FIRST; n += 500)
        for (unsigned i = 0; i < 2; i++)
            fill(home, queues[i], 500);
    fill(home, queues[2], LAST);
}

static void test_a_full_disk_does_not_stop_a_drain(void **state)
{
    struct home *home = *state;
    uint32_t queues[3];
    put_three(home, queues);
    uint64_t before = blocks(home);
    empty(home, queues[0], FIRST, 256);
    empty(home, queues[1], FIRST, 256);
    give_back(home);
    assert_true(blocks(home) + 64 * MIB < before);
    unsigned all = LAST, more;
    do {
        fill_disk(home);
        more = append_until_refused(home, queues[2]);
        all += more;
    } while (more > 0);
    /* Many small transactions write more pages than the front of the free list has. */
    empty(home, queues[2], all, 4);
    assert_int_equal(home_queue(home, queues[2]).messages, 0);
}

/* Others take what is free for as long as they can: all that deletions have is what was theirs. */
static void test_deletions_have_room_of_their_own(void **state)
{
    struct home *home = *state;
    uint32_t queues[3];
    put_three(home, queues);
    empty(home, queues[0], FIRST, 256);
    empty(home, queues[1], FIRST, 256);
    give_back(home);
    for (uint64_t seq = 1; seq <= 2560;) {
        fill_disk(home);
        home_begin(home);
        for (uint64_t i = 0; i < 128; i++, seq++)
            assert_int_equal(store_delete(home->store, queues[2], seq, &home->failure), STATUS_OK);
        home_commit(home);
        fill_disk(home);
        (void)store_has_room(home->store);
    }
    assert_int_equal(home_queue(home, queues[2]).messages, LAST - 2560);
}

/* The next process finds the holes, and appends only what has blocks. */
static void test_holes_are_known_after_a_start(void **state)
{
    struct home *home = *state;
    uint32_t queues[3];
    put_three(home, queues);
    uint64_t before = blocks(home);
    empty(home, queues[0], FIRST, 256);
    empty(home, queues[1], FIRST, 256);
    give_back(home);
    assert_true(blocks(home) + 64 * MIB < before);
    store_close(home->store);
    assert_int_equal(home_try_open(home, MAX_SIZE), STATUS_OK);
    assert_true(store_has_room(home->store));
    fill_disk(home);
    assert_true(append_until_refused(home, queues[0]) > 0);
    empty(home, queues[2], LAST, 64);
}

/* Whatever RabbitMQ has said: with that, none of them would fit into the place that it had. */
static void test_rejections_fit_on_a_full_disk(void **state)
{
    enum { LONG_ENOUGH = 1900, AT_ONCE = 16 };
    char words[255];
    struct home *home = *state;
    struct rejection why = {.code = 404, .text = words, .text_len = sizeof words, .at_us = 1};
    memset(words, 'w', sizeof words);
    assert_int_equal(home_try_open(home, MAX_SIZE), STATUS_OK);
    home_begin(home);
    uint32_t queue = home_put_queue(home, "a", "/");
    home_commit(home);
    uint64_t count = 0, seq;
    for (uint64_t before = 1; count != before;) {
        before = count;
        home_begin(home);
        while (count < before + 500 && home_try_append(home, queue, LONG_ENOUGH, &seq) == STATUS_OK)
            count++;
        home_commit(home);
    }
    assert_in_range(count, 50000, 200000);
    for (seq = 1; seq <= count;) {
        home_begin(home);
        for (unsigned i = 0; i < AT_ONCE && seq <= count; i++, seq++)
            assert_int_equal(store_reject(home->store, queue, seq, &why, &home->failure),
                             STATUS_OK);
        home_commit(home);
        (void)store_has_room(home->store); /* as the spooler does */
    }
    assert_int_equal(home_queue(home, queue).rejected, count);
}

int main(void)
{
    be_alone_with_mounts();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_full_disk_does_not_stop_a_drain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deletions_have_room_of_their_own, setup, teardown),
        cmocka_unit_test_setup_teardown(test_holes_are_known_after_a_start, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rejections_fit_on_a_full_disk, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
