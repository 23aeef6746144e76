/* The spool's files, moved, removed and replaced beside an open store. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/spool_home.h"
#include "../support/spool_readers.h"
#include "spool/place.h"

static char *name_in(const struct home *home, const char *name)
{
    static char names[4][128];
    static unsigned next;
    char *out = names[next++ % 4];
    snprintf(out, sizeof names[0], "%s/%s", home->spool, name);
    return out;
}

static void make_file(const char *name)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
}

static uint32_t open_with_one(struct home *home)
{
    home_open(home);
    home_begin(home);
    uint32_t queue = home_put_queue(home, "shop", "/");
    uint64_t seq;
    assert_int_equal(home_try_append(home, queue, 10, &seq), STATUS_OK);
    home_commit(home);
    return queue;
}

static void assert_takes(struct home *home, uint32_t queue, bool takes)
{
    uint64_t seq;
    home_begin(home);
    assert_int_equal(home_try_append(home, queue, 10, &seq), takes ? STATUS_OK : STATUS_FULL);
    home_commit(home);
    assert_int_equal(store_has_room(home->store), takes);
    assert_int_equal(store_misplaced(home->store) == NULL, takes);
}

static void test_what_is_as_it_was(void **state)
{
    struct home *home = *state;
    uint32_t queue = open_with_one(home);
    assert_int_equal(store_look_at_place(home->store), STATUS_OK);
    assert_takes(home, queue, true);
}

/* Moved and put back: what waits can be deleted all the time. */
static void test_data_that_is_moved(void **state)
{
    struct home *home = *state;
    uint32_t queue = open_with_one(home);
    assert_int_equal(rename(name_in(home, "data.mdb"), name_in(home, "aside")), 0);
    assert_int_equal(store_look_at_place(home->store), STATUS_OK);
    assert_takes(home, queue, false);
    home_begin(home);
    assert_int_equal(store_delete(home->store, queue, 1, &home->failure), STATUS_OK);
    home_commit(home);
    assert_int_equal(rename(name_in(home, "aside"), name_in(home, "data.mdb")), 0);
    assert_int_equal(store_look_at_place(home->store), STATUS_OK);
    assert_takes(home, queue, true);
    assert_int_equal(home_queue(home, queue).messages, 1);
}

static void test_data_that_is_another_file(void **state)
{
    struct home *home = *state;
    uint32_t queue = open_with_one(home);
    assert_int_equal(rename(name_in(home, "data.mdb"), name_in(home, "aside")), 0);
    make_file(name_in(home, "data.mdb"));
    assert_int_equal(store_look_at_place(home->store), STATUS_OK);
    assert_takes(home, queue, false);
    assert_int_equal(unlink(name_in(home, "data.mdb")), 0);
    assert_int_equal(rename(name_in(home, "aside"), name_in(home, "data.mdb")), 0);
}

static void test_a_directory_that_is_moved(void **state)
{
    struct home *home = *state;
    uint32_t queue = open_with_one(home);
    char moved[128];
    snprintf(moved, sizeof moved, "%s/moved", home->top);
    assert_int_equal(rename(home->spool, moved), 0);
    assert_int_equal(store_look_at_place(home->store), STATUS_OK);
    assert_takes(home, queue, false);
    assert_int_equal(rename(moved, home->spool), 0);
    assert_int_equal(store_look_at_place(home->store), STATUS_OK);
    assert_takes(home, queue, true);
}

/* Who reads by the old file is seen until it ends; then the store is to be opened again. */
static void test_a_lock_that_is_removed(void **state)
{
    struct home *home = *state;
    uint32_t queue = open_with_one(home);
    pid_t reader = start_readers(home, (struct table_use){.readers = 1, .rests = true});
    assert_int_equal(unlink(name_in(home, "lock.mdb")), 0);
    assert_int_equal(store_look_at_place(home->store), STATUS_OK);
    assert_takes(home, queue, true);
    kill_reader(reader);
    assert_int_equal(store_look_at_place(home->store), STATUS_FATAL);
    home_reopen(home);
    assert_int_equal(access(name_in(home, "lock.mdb"), F_OK), 0);
    assert_int_equal(store_look_at_place(home->store), STATUS_OK);
    assert_int_equal(home_queue(home, queue).messages, 2);
}

static void test_a_lock_that_is_another_file(void **state)
{
    struct home *home = *state;
    open_with_one(home);
    assert_int_equal(rename(name_in(home, "lock.mdb"), name_in(home, "aside")), 0);
    make_file(name_in(home, "lock.mdb"));
    assert_int_equal(store_look_at_place(home->store), STATUS_FATAL);
    home_reopen(home);
    assert_int_equal(store_look_at_place(home->store), STATUS_OK);
}

/* With spool.sync = interval. Another one may even be of another boot, and is not gone back to. */
static void test_a_checkpoint_that_is_replaced(void **state)
{
    struct home *home = *state;
    home->sync = STORE_SYNC_INTERVAL;
    uint32_t queue = open_with_one(home);
    assert_int_equal(store_sync(home->store, &home->failure), STATUS_OK);
    for (unsigned is_there = 0; is_there < 2; is_there++) {
        assert_int_equal(unlink(name_in(home, "checkpoint")), 0);
        if (is_there)
            make_file(name_in(home, "checkpoint"));
        assert_int_equal(store_look_at_place(home->store), STATUS_OK);
        struct stat st;
        assert_int_equal(stat(name_in(home, "checkpoint"), &st), 0);
        assert_true(st.st_size > 0);
        assert_int_equal(store_look_at_place(home->store), STATUS_OK);
        assert_takes(home, queue, true);
        assert_int_equal(store_sync(home->store, &home->failure), STATUS_OK);
    }
    home_reopen(home);
    assert_int_equal(home_queue(home, queue).messages, 3);
    pid_t reader = start_readers(home, (struct table_use){.readers = 1, .rests = true});
    assert_int_equal(unlink(name_in(home, "lock.mdb")), 0);
    assert_int_equal(unlink(name_in(home, "checkpoint")), 0);
    assert_int_equal(store_look_at_place(home->store), STATUS_OK);
    assert_int_equal(access(name_in(home, "checkpoint"), F_OK), 0);
    kill_reader(reader);
    assert_int_equal(store_look_at_place(home->store), STATUS_FATAL);
}

/* On what is not mounted, perhaps. */
static void test_data_behind_a_broken_link(void **state)
{
    struct home *home = *state;
    char target[128];
    struct stat st;
    snprintf(target, sizeof target, "%s/none", home->top);
    open_with_one(home);
    home_close(home);
    assert_int_equal(rename(name_in(home, "data.mdb"), name_in(home, "aside")), 0);
    assert_int_equal(symlink(target, name_in(home, "data.mdb")), 0);
    assert_int_equal(home_try_open(home, HOME_MAX_SIZE), STATUS_NO_SPOOL);
    assert_int_equal(lstat(target, &st), -1);
    assert_int_equal(rename(name_in(home, "aside"), target), 0);
    home_open(home);
    assert_int_equal(home_queue(home, 1).messages, 1);
}

/* A directory that cannot be looked into says nothing about what is in it. */
static void test_what_nobody_can_see_is_not_gone(void **state)
{
    struct home *home = *state;
    struct place place;
    char loop[128];
    snprintf(loop, sizeof loop, "%s/loop", home->top);
    open_with_one(home);
    place_note(&place, home->spool);
    assert_int_equal(symlink(loop, loop), 0);
    assert_int_equal(place_look(&place, loop), PLACE_AS_IT_WAS);
    assert_int_equal(unlink(loop), 0);
}

int main(void)
{
#define WITH_HOME(test) cmocka_unit_test_setup_teardown(test, home_setup, home_teardown)
    const struct CMUnitTest tests[] = {
        WITH_HOME(test_what_is_as_it_was),
        WITH_HOME(test_data_that_is_moved),
        WITH_HOME(test_data_that_is_another_file),
        WITH_HOME(test_a_directory_that_is_moved),
        WITH_HOME(test_a_lock_that_is_removed),
        WITH_HOME(test_a_lock_that_is_another_file),
        WITH_HOME(test_a_checkpoint_that_is_replaced),
        WITH_HOME(test_data_behind_a_broken_link),
        WITH_HOME(test_what_nobody_can_see_is_not_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
