/* Pages that LMDB may write to are looked at first, and a page in a wrong place hides nothing. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/spool_home.h"
#include "spool/branches.h"
#include "spool/env.h"
#include "spool/view.h"

enum { PAGE = 4096, AT_FLAGS = 10, AT_LOWER = 12, BRANCH = 1, LEAF = 2, PAGES_MAX = 256 };

/* data.mdb, in memory. */
struct file {
    char name[128];
    uint8_t bytes[PAGES_MAX][PAGE];
    uint64_t pages;
};

static struct file *file_read(struct home *home)
{
    struct file *file = calloc(1, sizeof *file);
    ENSURE(file);
    snprintf(file->name, sizeof file->name, "%s/data.mdb", home->spool);
    int fd = open(file->name, O_RDONLY);
    ssize_t len = read(fd, file->bytes, sizeof file->bytes);
    ENSURE(len > 0 && len < (ssize_t)sizeof file->bytes);
    close(fd);
    file->pages = (uint64_t)len / PAGE;
    return file;
}

static void file_write(const struct file *file, uint64_t page, const uint8_t *bytes)
{
    int fd = open(file->name, O_WRONLY);
    ENSURE(pwrite(fd, bytes, PAGE, (off_t)(page * PAGE)) == PAGE);
    close(fd);
}

/* As it was. */
static void file_restore(const struct file *file)
{
    int fd = open(file->name, O_WRONLY | O_TRUNC);
    ENSURE(write(fd, file->bytes, file->pages * PAGE) == (ssize_t)(file->pages * PAGE));
    close(fd);
}

static bool has_flags(const struct file *file, uint64_t page, uint8_t flags)
{
    return page > 1 && file->bytes[page][AT_FLAGS] == flags;
}

/* ---- a state of the file, through LMDB ---- */

struct view {
    MDB_env *env;
    MDB_txn *txn;
    struct page_map map;
};

static struct view view_open(struct home *home)
{
    struct view view;
    ENSURE(env_open(&view.env, home->spool, 0, MDB_RDONLY | MDB_NOLOCK, NULL) == STATUS_OK);
    ENSURE(view_begin(view.env, &view.txn) == 0);
    ENSURE(page_map_find(view.txn, &view.map) == 0);
    return view;
}

static void view_close(struct view *view)
{
    view_end(view->txn);
    env_close(view->env);
}

static bool branches_are_good(struct home *home)
{
    struct view view = view_open(home);
    bool are_good = branches_are_sound(view.txn, &view.map, "messages");
    view_close(&view);
    return are_good;
}

static int check_around(struct home *home, uint64_t seq)
{
    struct view view = view_open(home);
    uint8_t key_bytes[RECORD_KEY_BYTES];
    record_key(key_bytes, 1, seq);
    struct branches_range range;
    int error = branches_check_around(view.txn, &view.map, "messages",
                                      (MDB_val){sizeof key_bytes, key_bytes}, &range);
    view_close(&view);
    return error;
}

/* The pages of `messages`: those that reading one of its keys needs, by trying. */
static bool holds_messages(const struct file *file, uint64_t page)
{
    const uint8_t *bytes = file->bytes[page];
    struct page_node node;
    return has_flags(file, page, LEAF) && page_node(bytes, PAGE, 0, &node) &&
           node.key.mv_size == RECORD_KEY_BYTES &&
           record_key_queue(node.key.mv_data) < 1000; /* not one of `meta` */
}

static uint64_t first_seq(const struct file *file, uint64_t page)
{
    struct page_node node;
    ENSURE(page_node(file->bytes[page], PAGE, 0, &node));
    return record_key_seq(node.key.mv_data);
}

/* A new file, without pages of older states. */
static struct file *fill(struct home *home)
{
    home_fill(home, 60, 900);
    home_close(home);
    struct file *file = file_read(home);
    unsigned branches = 0, leaves = 0;
    for (uint64_t page = 2; page < file->pages; page++) {
        branches += has_flags(file, page, BRANCH);
        leaves += holds_messages(file, page);
    }
    assert_int_equal(branches, 1);
    assert_true(leaves >= 15);
    return file;
}

/* Each bit of a branch's head, of its offsets, of the numbers of its children and of its keys. */
static void try_every_bit_of_a_branch(struct home *home)
{
    struct file *file = fill(home);
    uint8_t page[PAGE];
    uint64_t branch = 2;
    while (!has_flags(file, branch, BRANCH))
        branch++;
    assert_true(branches_are_good(home));
    const uint8_t *bytes = file->bytes[branch];
    size_t lower = (size_t)(bytes[AT_LOWER] | bytes[AT_LOWER + 1] << 8), missed = 0;
    for (size_t bit = 0; bit < lower * 8; bit++) {
        if (bit / 8 == 8 || bit / 8 == 9)
            continue; /* LMDB's mp_pad, which nothing reads */
        memcpy(page, bytes, PAGE);
        page[bit / 8] ^= (uint8_t)(1U << bit % 8);
        file_write(file, branch, page);
        missed += branches_are_good(home);
    }
    assert_int_equal(missed, 0);
    file_restore(file);
    assert_true(branches_are_good(home));
    free(file);
}

/* The same of each leaf beside the one that is asked for. */
static void try_heads_of_leaves(struct home *home)
{
    struct file *file = fill(home);
    uint8_t page[PAGE];
    assert_int_equal(check_around(home, 1), 0);
    for (uint64_t leaf = 2; leaf < file->pages; leaf++) {
        if (!holds_messages(file, leaf))
            continue;
        for (size_t bit = 0; bit < 16 * 8; bit++) {
            if (bit / 8 == 8 || bit / 8 == 9)
                continue;
            memcpy(page, file->bytes[leaf], PAGE);
            page[bit / 8] ^= (uint8_t)(1U << bit % 8);
            file_write(file, leaf, page);
            assert_int_equal(check_around(home, 1), MDB_CORRUPTED);
            assert_int_equal(check_around(home, 60), MDB_CORRUPTED);
        }
        file_restore(file);
    }
    assert_int_equal(check_around(home, 30), 0);
    free(file);
}

/* All that is not on a page whose head is wrong is read, whatever that says of its size. */
static void try_reading_past_heads_of_leaves(struct home *home)
{
    struct file *file = fill(home);
    uint8_t page[PAGE];
    for (uint64_t leaf = 2; leaf < file->pages; leaf++) {
        if (!holds_messages(file, leaf))
            continue;
        size_t own = page_node_count(file->bytes[leaf]);
        uint64_t first = first_seq(file, leaf);
        for (size_t bit = 8 * AT_LOWER; bit < 8 * (AT_LOWER + 2); bit++) {
            memcpy(page, file->bytes[leaf], PAGE);
            page[bit / 8] ^= (uint8_t)(1U << bit % 8);
            file_write(file, leaf, page);
            home_open(home);
            struct seen seen = home_read(home, 1, 0);
            home_close(home);
            unsigned at = 0;
            for (uint64_t seq = 1; seq <= 60; seq++) {
                while (at < seen.count && seen.seq[at] < seq)
                    at++;
                if (seq < first || seq >= first + own)
                    assert_true(at < seen.count && seen.seq[at] == seq);
            }
        }
        file_restore(file);
    }
    free(file);
}

/* A leaf lies where another belongs: what was on that is lost, and nothing else. */
static void try_pages_in_wrong_places(struct home *home)
{
    struct file *file = fill(home);
    for (uint64_t from = 2; from < file->pages; from++)
        for (uint64_t to = 2; to < file->pages; to++) {
            if (from == to || !holds_messages(file, from) || !holds_messages(file, to))
                continue;
            size_t gone = page_node_count(file->bytes[to]);
            uint64_t first = first_seq(file, to);
            file_write(file, to, file->bytes[from]);
            home_open(home);
            struct seen seen = home_read(home, 1, 0);
            home_close(home);
            unsigned at = 0;
            for (uint64_t seq = 1; seq <= 60; seq++)
                if (seq < first || seq >= first + gone)
                    assert_int_equal(seen.seq[at++], seq);
            assert_int_equal(seen.count, at);
            assert_true(seen.damaged_count > 0);
            file_restore(file);
        }
    free(file);
}

/* Small queues, all of which are read, and then deleted as far as that is allowed: LMDB puts what
 * is left of their pages together, again and again, and never comes to the damaged one. */
static void try_deleting_beside_damage(struct home *home)
{
    enum { QUEUES = 24, EACH = 5 };
    home_open(home);
    for (unsigned i = 0; i < QUEUES; i++) {
        char vhost[16];
        snprintf(vhost, sizeof vhost, "v%u", i);
        home_begin(home);
        uint32_t queue = home_put_queue(home, "shop", vhost);
        for (unsigned n = 0; n < EACH; n++)
            home_append(home, queue, 150 + 41 * ((i * 7 + n * 3) % 11));
        home_commit(home);
    }
    home_close(home);
    struct file *file = file_read(home);
    uint8_t garbage[PAGE];
    memset(garbage, 0xA7, sizeof garbage);
    for (uint64_t leaf = 2; leaf < file->pages; leaf++) {
        if (!holds_messages(file, leaf))
            continue;
        file_write(file, leaf, garbage);
        home_open(home);
        struct seen seen[QUEUES + 1];
        for (uint32_t queue = 1; queue <= QUEUES; queue++)
            seen[queue] = home_read(home, queue, 0);
        for (uint32_t queue = 1; queue <= QUEUES; queue++)
            for (unsigned n = 0; n < seen[queue].count; n++) {
                home_begin(home);
                enum status status =
                    store_delete(home->store, queue, seen[queue].seq[n], &home->failure);
                assert_true(status == STATUS_OK || status == STATUS_INVALID);
                home_commit(home);
            }
        home_close(home);
        file_restore(file);
    }
    free(file);
}

/* A database whose name is damaged is not made anew, without its messages. */
static void try_damaged_names(struct home *home)
{
    static const char *const names[] = {"messages", "rejected", "parts", "queues", "meta"};
    struct file *file = fill(home);
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        for (uint64_t page = 2; page < file->pages; page++) { /* older states have it, too */
            uint8_t bytes[PAGE];
            memcpy(bytes, file->bytes[page], PAGE);
            uint8_t *at = memmem(bytes, PAGE, names[i], strlen(names[i]));
            if (!at || !has_flags(file, page, LEAF) || holds_messages(file, page))
                continue;
            at[2] ^= 1;
            file_write(file, page, bytes);
        }
        assert_int_equal(home_try_open(home, HOME_MAX_SIZE), STATUS_DAMAGED);
        file_restore(file);
    }
    home_open(home);
    assert_int_equal(home_read(home, 1, 0).count, 60);
    free(file);
}

/* In one test: each that cmocka runs takes SIGSEGV for itself, and the guard takes it once. */
static void test_damaged_pages(void **state)
{
    static void (*const tries[])(struct home *) = {
        try_every_bit_of_a_branch, try_heads_of_leaves,        try_reading_past_heads_of_leaves,
        try_pages_in_wrong_places, try_deleting_beside_damage, try_damaged_names};
    for (unsigned i = 0; i < sizeof tries / sizeof *tries; i++) {
        home_setup(state);
        tries[i](*state);
        home_teardown(state);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_damaged_pages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
