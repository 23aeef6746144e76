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

/* ---- any page in the place of any other one ---- */

enum { MESSAGES = 60, REJECT_EACH = 3, MAIN_ROOT = 16 + 24 + 48 + 40, DB_ROOT = 40 };

/* Which pages each message needs, from the root of its list on. */
struct needs {
    bool pages[MESSAGES + 1][PAGES_MAX];
};

static uint64_t get64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static void note_pages(const struct file *file, uint64_t page, const bool *above,
                       struct needs *needs)
{
    bool path[PAGES_MAX];
    const uint8_t *bytes = file->bytes[page];
    memcpy(path, above, sizeof path);
    path[page] = true;
    struct page_child child;
    struct page_node node;
    for (size_t i = 0; i < page_node_count(bytes); i++) {
        if (has_flags(file, page, BRANCH)) {
            ENSURE(page_child(bytes, PAGE, i, &child));
            note_pages(file, child.number, path, needs);
        } else {
            ENSURE(page_node(bytes, PAGE, i, &node) && node.data);
            memcpy(needs->pages[record_key_seq(node.key.mv_data)], path, sizeof path);
        }
    }
}

static void note_list(const struct file *file, const char *list, struct needs *needs)
{
    uint64_t transactions[2];
    for (unsigned i = 0; i < 2; i++)
        ENSURE(page_is_meta(file->bytes[i], i, &transactions[i]));
    const uint8_t *meta = file->bytes[transactions[1] > transactions[0]];
    const uint8_t *root = file->bytes[get64(meta + MAIN_ROOT)];
    struct page_node node;
    for (size_t i = 0; i < page_node_count(root); i++) {
        ENSURE(page_node(root, PAGE, i, &node));
        if (node.key.mv_size == strlen(list) &&
            memcmp(node.key.mv_data, list, node.key.mv_size) == 0)
            note_pages(file, get64(node.data + DB_ROOT), (const bool[PAGES_MAX]){false}, needs);
    }
}

static bool is_rejected(uint64_t seq)
{
    return seq % REJECT_EACH == 0;
}

static void reject_some(struct home *home)
{
    struct rejection rejection = {.code = 404, .text = "", .at_us = 1};
    home_open(home);
    home_begin(home);
    for (uint64_t seq = 1; seq <= MESSAGES; seq++)
        if (is_rejected(seq))
            assert_int_equal(store_reject(home->store, 1, seq, &rejection, &home->failure),
                             STATUS_OK);
    home_commit(home);
    home_close(home);
}

/* What waits is read if all that it needs is there, in order. An older page of the list may show
 * again what was rejected since. */
static void expect_readable(const struct seen *seen, const struct needs *needs, uint64_t damaged)
{
    unsigned at = 0;
    for (uint64_t seq = 1; seq <= MESSAGES; seq++) {
        bool is_read = at < seen->count && seen->seq[at] == seq;
        at += is_read;
        assert_true(is_read || is_rejected(seq) || needs->pages[seq][damaged]);
    }
    assert_int_equal(at, seen->count);
}

/* The pages of both lists, with what is in them. */
struct lists {
    struct file *file;
    struct needs *needs;
    bool has[PAGES_MAX];
};

static struct lists fill_lists(struct home *home)
{
    free(fill(home));
    reject_some(home);
    struct lists lists = {.file = file_read(home), .needs = calloc(1, sizeof *lists.needs)};
    ENSURE(lists.needs);
    note_list(lists.file, "messages", lists.needs);
    note_list(lists.file, "rejected", lists.needs);
    for (uint64_t page = 2; page < lists.file->pages; page++)
        for (uint64_t seq = 1; seq <= MESSAGES; seq++)
            lists.has[page] = lists.has[page] || lists.needs->pages[seq][page];
    return lists;
}

static void try_page(struct home *home, const struct lists *lists, uint64_t page,
                     const uint8_t *bytes)
{
    file_write(lists->file, page, bytes);
    home_open(home);
    struct seen seen = home_read(home, 1, 0);
    home_close(home);
    expect_readable(&seen, lists->needs, page);
    file_restore(lists->file);
}

static void try_any_page_anywhere(struct home *home)
{
    struct lists lists = fill_lists(home);
    unsigned tried = 0;
    for (uint64_t to = 2; to < lists.file->pages; to++)
        for (uint64_t from = 0; lists.has[to] && from < lists.file->pages; from++, tried++)
            try_page(home, &lists, to, lists.file->bytes[from]);
    assert_true(tried > 500);
    free(lists.needs);
    free(lists.file);
}

/* Keys of one length, which is 0, and billions of them: LMDB's search would not end. */
static void try_endless_searches(struct home *home)
{
    enum { LEAF2 = 32 };
    struct lists lists = fill_lists(home);
    for (uint64_t page = 2; page < lists.file->pages; page++) {
        uint8_t bytes[PAGE];
        memcpy(bytes, lists.file->bytes[page], PAGE);
        bytes[AT_FLAGS] |= LEAF2;
        bytes[AT_LOWER] = bytes[AT_LOWER + 1] = 0;
        if (lists.has[page])
            try_page(home, &lists, page, bytes);
    }
    free(lists.needs);
    free(lists.file);
}

static void change(uint8_t *page, unsigned seed)
{
    enum { WAYS = 4, FEW = 8, MANY = 64 };
    srandom(seed);
    size_t len = (const size_t[WAYS]){1, FEW, MANY, PAGE}[seed % WAYS];
    size_t at = (size_t)random() % (PAGE - len + 1);
    if (seed / WAYS % 2) /* where the head and the offsets are, a change says more */
        at %= PAGE_HEAD_BYTES + 4 * MESSAGES;
    for (size_t i = 0; i < len; i++)
        page[at + i] = (uint8_t)(page[at + i] ^ (len == 1 ? 1 << random() % 8 : random()));
}

/* AMQPBUF_TEST_CHANGES: how many of each page. */
static void try_changed_pages(struct home *home)
{
    struct lists lists = fill_lists(home);
    const char *wanted = getenv("AMQPBUF_TEST_CHANGES");
    unsigned changes = wanted ? (unsigned)strtoul(wanted, NULL, 10) : 6;
    for (uint64_t page = 2; page < lists.file->pages; page++)
        for (unsigned seed = 0; lists.has[page] && seed < changes; seed++) {
            uint8_t bytes[PAGE];
            memcpy(bytes, lists.file->bytes[page], PAGE);
            change(bytes, (unsigned)page * changes + seed);
            print_message("page %u, seed %u\n", (unsigned)page, (unsigned)page * changes + seed);
            try_page(home, &lists, page, bytes);
        }
    free(lists.needs);
    free(lists.file);
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
        try_pages_in_wrong_places, try_any_page_anywhere,      try_endless_searches,
        try_changed_pages,         try_deleting_beside_damage, try_damaged_names};
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
