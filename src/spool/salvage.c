#include "amqpbuf/spool_salvage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/memory.h"
#include "spool/checkpoint.h"
#include "spool/directory.h"
#include "spool/env.h"
#include "spool/free_list.h"
#include "spool/home.h"
#include "spool/page.h"
#include "spool/page_set.h"
#include "spool/record.h"
#include "spool/view.h"

/* Happy path: every page that is not free is read, and if it is a leaf, the place of each value
 * whose key could be that of a message or of a part is noted. Sorted by key these are the messages
 * in order, each followed by its parts.
 *
 * What can fail: pages that the disk cannot read are counted; a value that does not fit its
 * checksum is taken as damaged; of a key that is there several times the first whole value counts.
 * Without the list of free pages old copies of messages are found, too: of one that waited and was
 * rejected the rejected one is the newer. */

enum { ENTRY_KEY_BYTES = 4 };

struct found {
    uint64_t seq, at; /* offset of the value in the file */
    uint32_t queue, part, len;
};

struct salvage {
    int fd;
    uint64_t pages, unreadable;
    size_t page_bytes;
    struct page_set free;
    bool knows_free;
    struct found *found;
    size_t count, capacity;
    struct directory_entry *entries;
    size_t entry_count, entry_capacity;
};

static bool read_at(const struct salvage *s, uint64_t at, void *bytes, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(s->fd, (uint8_t *)bytes + done, len - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

/* In memory of its own; NULL if it is not in the file, or there is no memory. */
static uint8_t *read_value(const struct salvage *s, uint64_t at, size_t len)
{
    uint64_t end = s->pages * s->page_bytes;
    if (at > end || len > end - at)
        return NULL;
    uint8_t *value = malloc(len + 1);
    if (value && !read_at(s, at, value, len)) {
        free(value);
        return NULL;
    }
    return value;
}

/* ---- what is free ---- */

/* LMDB believes the newer one. If the newest is damaged, what the last commit wrote is on pages
 * that the one before says are free. */
static bool metas_are_sound(const struct salvage *s)
{
    uint8_t page[PAGE_META_BYTES];
    uint64_t transactions[2];
    for (unsigned i = 0; i < 2; i++)
        if (!read_at(s, i * s->page_bytes, page, sizeof page) ||
            !page_is_meta(page, i, &transactions[i]))
            return false;
    uint64_t a = transactions[0], b = transactions[1];
    return a + 1 == b || b + 1 == a || (a == 0 && b == 0);
}

/* A spool that waits for its checkpoint has a list of another state. */
static void find_free(struct salvage *s, const char *path)
{
    MDB_env *env;
    MDB_txn *txn;
    if (checkpoint_is_due(path) || !metas_are_sound(s) ||
        env_open(&env, path, 0, MDB_RDONLY | MDB_NOLOCK, NULL) != STATUS_OK)
        return;
    page_set_reach(&s->free, s->pages);
    if (view_begin(env, &txn) == 0) {
        s->knows_free = free_list_collect(txn, &s->free) == 0;
        view_end(txn);
    }
    env_close(env);
    if (!s->knows_free)
        page_set_free(&s->free);
}

/* ---- what is there ---- */

static void add_found(struct salvage *s, struct found found)
{
    if (s->count == s->capacity) {
        s->capacity = 2 * s->capacity + 1024;
        s->found = memory_grow(s->found, s->capacity, sizeof *s->found);
    }
    s->found[s->count++] = found;
}

/* Of several copies one with all of it. */
static void add_entry(struct salvage *s, const MDB_val *key, const MDB_val *value)
{
    struct directory_entry entry = {0};
    if (directory_decode(key, value, &entry, NULL) != STATUS_OK ||
        entry.lost & DIRECTORY_LOGIN_LOST) {
        directory_entry_clear(&entry);
        return;
    }
    for (size_t i = 0; i < s->entry_count; i++) {
        if (s->entries[i].id != entry.id)
            continue;
        if (s->entries[i].lost || (!entry.lost && entry.next_seq > s->entries[i].next_seq)) {
            struct directory_entry other = s->entries[i];
            s->entries[i] = entry;
            entry = other;
        }
        directory_entry_clear(&entry);
        return;
    }
    if (s->entry_count == s->entry_capacity) {
        s->entry_capacity = 2 * s->entry_capacity + 16;
        s->entries = memory_grow(s->entries, s->entry_capacity, sizeof *s->entries);
    }
    s->entries[s->entry_count++] = entry;
}

/* Where the node's value lies in the file; 0: nowhere. */
static uint64_t place_of(const struct salvage *s, uint64_t number, const uint8_t *page,
                         const struct page_node *node)
{
    uint8_t head[PAGE_HEAD_BYTES];
    if (node->data)
        return number * s->page_bytes + (uint64_t)(node->data - page);
    if (node->first_page >= s->pages ||
        !read_at(s, node->first_page * s->page_bytes, head, sizeof head) ||
        !page_is_first_of(head, node->first_page, node->data_len, s->page_bytes))
        return 0;
    return node->first_page * s->page_bytes + PAGE_HEAD_BYTES;
}

static void look_at_node(struct salvage *s, uint64_t number, const uint8_t *page,
                         const struct page_node *node)
{
    static const char other[] = "last_dropped"; /* of `meta`, and as long as a record's key */
    const uint8_t *key = node->key.mv_data;
    size_t key_len = node->key.mv_size;
    bool is_record = key_len == RECORD_KEY_BYTES && memcmp(key, other, sizeof other - 1) != 0;
    bool is_part = key_len == RECORD_PART_KEY_BYTES;
    if (!is_record && !is_part && key_len != ENTRY_KEY_BYTES)
        return;
    uint64_t at = place_of(s, number, page, node);
    if (is_record || is_part) {
        add_found(s, (struct found){.queue = record_key_queue(key),
                                    .seq = record_key_seq(key),
                                    .part = is_part ? record_key_part(key) : 0,
                                    .at = at,
                                    .len = at > 0 ? node->data_len : 0});
        return;
    }
    MDB_val value = {node->data_len, read_value(s, at, node->data_len)};
    if (value.mv_data)
        add_entry(s, &node->key, &value);
    free(value.mv_data);
}

static void look_at_pages(struct salvage *s)
{
    uint8_t *page = malloc(s->page_bytes);
    struct page_node node;
    ENSURE(page);
    for (uint64_t number = 0; number < s->pages; number++) {
        if (page_set_has(&s->free, number))
            continue;
        if (!read_at(s, number * s->page_bytes, page, s->page_bytes)) {
            s->unreadable++;
            continue;
        }
        for (size_t i = 0; page_is_leaf(page, s->page_bytes) && i < page_node_count(page); i++)
            if (page_node(page, s->page_bytes, i, &node))
                look_at_node(s, number, page, &node);
    }
    free(page);
}

static int by_key(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    if (x->queue != y->queue)
        return x->queue < y->queue ? -1 : 1;
    if (x->seq != y->seq)
        return x->seq < y->seq ? -1 : 1;
    if (x->part != y->part)
        return x->part < y->part ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

enum status salvage_open(struct salvage **out, const char *path, struct failure *failure)
{
    char name[4096];
    struct stat file;
    snprintf(name, sizeof name, "%s/data.mdb", path);
    int fd = open(name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return failure_set(failure, errno == ENOENT ? STATUS_NO_SPOOL : STATUS_PERMISSION, "%s: %s",
                           name, strerror(errno));
    if (fstat(fd, &file) < 0 || !S_ISREG(file.st_mode)) {
        close(fd);
        return failure_set(failure, STATUS_PERMISSION, "%s is no regular file", name);
    }
    if (home_is_locked(path)) {
        close(fd);
        return failure_set(failure, STATUS_IN_USE,
                           "amqpbuf runs on this spool, and changes it: stop it first, or recover "
                           "from a copy of the directory");
    }
    struct salvage *s = calloc(1, sizeof *s);
    ENSURE(s);
    s->fd = fd;
    s->page_bytes = (size_t)sysconf(_SC_PAGESIZE); /* as LMDB chooses it */
    s->pages = (uint64_t)file.st_size / s->page_bytes;
    find_free(s, path);
    look_at_pages(s);
    if (s->count > 0)
        qsort(s->found, s->count, sizeof *s->found, by_key);
    *out = s;
    return STATUS_OK;
}

void salvage_close(struct salvage *s)
{
    for (size_t i = 0; i < s->entry_count; i++)
        directory_entry_clear(&s->entries[i]);
    free(s->entries);
    free(s->found);
    page_set_free(&s->free);
    close(s->fd);
    free(s);
}

bool salvage_knows_what_is_free(const struct salvage *s)
{
    return s->knows_free;
}

uint64_t salvage_unreadable_pages(const struct salvage *s)
{
    return s->unreadable;
}

/* ---- a message ---- */

/* All that was found under its number: [begin, end) of `found`. */
struct group {
    const struct salvage *salvage;
    const struct found *begin, *end;
    uint8_t *value; /* of the record */
    struct record record;
    const char *damage;
    uint8_t *body; /* if in parts */
};

/* A whole one before a damaged one, a rejected one before one that waits. */
static bool is_better(const struct record *r, const char *damage, const struct group *than)
{
    if (!than->value)
        return true;
    if (!damage != !than->damage)
        return !damage;
    return r->is_rejected && !than->record.is_rejected;
}

/* The value of a record that can be taken apart, or NULL; *damage says what is wrong, if anything.
 */
static uint8_t *read_record(const struct salvage *s, const struct found *f, struct record *record,
                            const char **damage)
{
    const char *why;
    uint8_t *value = f->len > 0 ? read_value(s, f->at, f->len) : NULL;
    *damage = value ? NULL : "its pages cannot be read";
    if (!value || record_read(value, f->len, f->queue, f->seq, record, damage) == STATUS_OK ||
        record_guess(value, f->len, record, &why) == STATUS_OK)
        return value;
    free(value);
    return NULL;
}

/* False if there is none that can be taken apart. */
static bool choose_record(struct group *g)
{
    g->damage = "its record is not there, and parts of its body are";
    for (const struct found *f = g->begin; f < g->end && f->part == 0; f++) {
        struct record record;
        const char *damage;
        uint8_t *value = read_record(g->salvage, f, &record, &damage);
        if (value && is_better(&record, damage, g)) {
            free(g->value);
            g->value = value;
            g->record = record;
            g->damage = damage;
            continue;
        }
        free(value);
        if (!g->value)
            g->damage = damage;
    }
    return g->value != NULL;
}

/* Finds the part behind *at, which moves on. */
static bool read_part(const struct group *g, const struct found **at, uint32_t part, uint8_t *body)
{
    size_t len = record_part_size(g->record.body_size, part);
    bool is_read = false;
    for (; *at < g->end && (*at)->part <= part; (*at)++) {
        const struct found *f = *at;
        if (is_read || f->part != part || f->len != len + RECORD_PART_CHECKSUM_BYTES)
            continue;
        uint8_t *value = read_value(g->salvage, f->at, f->len);
        is_read = value && record_part_check(value, len, f->queue, f->seq, part);
        if (is_read)
            memcpy(body, value + RECORD_PART_CHECKSUM_BYTES, len);
        free(value);
    }
    return is_read;
}

/* False if nothing is to be gained from it. */
static bool read_parts(struct group *g)
{
    uint32_t parts = record_part_count(g->record.body_size);
    const struct found *at = g->begin;
    if (g->damage && (g->begin == g->end || parts != (g->end - 1)->part))
        return false; /* its size is not to be believed */
    g->body = calloc(1, (size_t)g->record.body_size + 1);
    if (!g->body) {
        g->damage = "too large for memory";
        return false;
    }
    for (uint32_t part = 1; part <= parts; part++)
        if (!read_part(g, &at, part, g->body + (size_t)(part - 1) * RECORD_PART_BYTES))
            g->damage = "parts of its body are damaged or not there: zeros stand for them";
    return true;
}

static bool visit_group(struct group *g, const struct salvage_queue *queue,
                        const struct salvage_visitor *visitor, void *arg)
{
    bool goes_on = true;
    bool is_there = choose_record(g) && (!g->record.parted || read_parts(g));
    if (is_there) {
        const struct record *r = &g->record;
        struct reader_record record = {
            .queue = g->begin->queue,
            .seq = g->begin->seq,
            .kind = r->kind,
            .received_at_us = r->received_at_us,
            .method = r->method.iov_base,
            .method_len = r->method.iov_len,
            .header = r->header.iov_base,
            .header_len = r->header.iov_len,
            .body = r->parted ? g->body : r->body,
            .body_size = r->body_size,
            .is_rejected = r->is_rejected,
            .rejection = r->rejection,
        };
        goes_on = visitor->visit(arg, queue, &record, g->damage);
    } else {
        visitor->lost(arg, queue, g->begin->seq, g->damage);
    }
    free(g->value);
    free(g->body);
    return goes_on;
}

/* ---- all of them ---- */

static struct salvage_queue queue_of(const struct salvage *s, uint32_t id)
{
    for (size_t i = 0; i < s->entry_count; i++) {
        const struct directory_entry *entry = &s->entries[i];
        if (entry->id == id)
            return (struct salvage_queue){.id = id,
                                          .user = entry->user,
                                          .vhost = entry->vhost,
                                          .is_counted = !entry->lost,
                                          .messages = entry->messages,
                                          .rejected = entry->rejected};
    }
    return (struct salvage_queue){.id = id, .user = "", .vhost = ""};
}

static int by_queue(const void *id, const void *found)
{
    uint32_t a = *(const uint32_t *)id, b = ((const struct found *)found)->queue;
    return (a > b) - (a < b);
}

/* Of these nothing at all was found. */
static void end_others(const struct salvage *s, const struct salvage_visitor *visitor, void *arg)
{
    for (size_t i = 0; i < s->entry_count; i++) {
        struct salvage_queue queue = queue_of(s, s->entries[i].id);
        if (s->count == 0 || !bsearch(&queue.id, s->found, s->count, sizeof *s->found, by_queue))
            visitor->end(arg, &queue);
    }
}

void salvage_records(struct salvage *s, const struct salvage_visitor *visitor, void *arg)
{
    const struct found *all_end = s->found + s->count;
    bool goes_on = true;
    for (const struct found *f = s->found; f < all_end && goes_on;) {
        struct salvage_queue queue = queue_of(s, f->queue);
        while (goes_on && f < all_end && f->queue == queue.id) {
            struct group group = {.salvage = s, .begin = f};
            for (uint64_t seq = f->seq; f < all_end && f->queue == queue.id && f->seq == seq; f++)
                ;
            group.end = f;
            goes_on = visit_group(&group, &queue, visitor, arg);
        }
        if (goes_on)
            visitor->end(arg, &queue);
    }
    if (goes_on)
        end_others(s, visitor, arg);
}
