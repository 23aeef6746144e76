#include "spool/walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "spool/guard.h"
#include "spool/page.h"

enum {
    PROBES_ONE_BY_ONE = 64,
    STEP_DIVISOR = 4, /* then each step is longer by this share */
};

const char walk_pages_unsound[] = "a damaged page: its messages can be read, but not be deleted";
const char walk_pages_damaged[] = "damaged pages: nothing can be read up to the next message";

struct body_parts {
    struct iovec one;
    struct iovec *many;
    size_t capacity;
};

static bool make_room(struct body_parts *body, uint32_t parts)
{
    if (parts <= body->capacity)
        return true;
    struct iovec *many = realloc(body->many, parts * sizeof *many);
    if (!many)
        return false;
    body->many = many;
    body->capacity = parts;
    return true;
}

/* Looks the parts up in order. Returns what is wrong, or NULL. */
static const char *collect_parts(MDB_txn *txn, const struct walk_list *list, uint64_t seq,
                                 uint64_t body_size, struct body_parts *body,
                                 MDB_cursor **parts_cursor)
{
    uint32_t parts = record_part_count(body_size);
    if (!make_room(body, parts))
        return "too large for memory";
    if (mdb_cursor_open(txn, list->parts, parts_cursor) != 0)
        return "its parts cannot be read";
    MDB_cursor *cursor = *parts_cursor; /* closed by the caller, whatever happens here */
    const char *what = NULL;
    for (uint32_t part = 1; part <= parts && !what; part++) {
        uint8_t key_bytes[RECORD_PART_KEY_BYTES];
        size_t len = record_part_size(body_size, part);
        record_part_key(key_bytes, list->queue, seq, part);
        MDB_val key = {sizeof key_bytes, key_bytes}, data;
        int error = mdb_cursor_get(cursor, &key, &data, part == 1 ? MDB_SET_KEY : MDB_NEXT);
        if ((error && error != MDB_NOTFOUND) ||
            (!error &&
             (!page_map_has(&list->map, &key) || !page_map_has_value(&list->map, &key, &data))))
            what = walk_pages_damaged;
        else if (error || key.mv_size != sizeof key_bytes ||
                 memcmp(key.mv_data, key_bytes, sizeof key_bytes) != 0)
            what = "a part of the body is missing";
        else if (data.mv_size != len + RECORD_PART_CHECKSUM_BYTES)
            what = "a part of the body has another length";
        else if (!record_part_check(data.mv_data, len, list->queue, seq, part))
            what = "wrong checksum of a part of the body";
        else
            body->many[part - 1] =
                (struct iovec){(uint8_t *)data.mv_data + RECORD_PART_CHECKSUM_BYTES, len};
    }
    return what;
}

/* ---- walking ---- */

struct walk {
    MDB_txn *txn;
    MDB_cursor *cursor;
    const struct walk_list *list;
    uint64_t after;       /* visited, or passed over */
    bool is_positioned;   /* the cursor stands at `after` */
    uintptr_t page;       /* of the last key */
    bool is_page_new;     /* the record that was fetched is the first one that was read there */
    bool is_page_unsound; /* it can be read, but not written to; told once */
    /* the record that was fetched */
    uint64_t seq;
    struct record record;
    struct body_parts body;
    struct iovec *iov;
    size_t count;
    const char *what; /* is wrong with it; NULL: nothing */
    MDB_cursor *parts;
};

/* Keys rise; a page in a wrong place may even lead back to itself. */
static int check_key(const struct walk *w, const MDB_val *key)
{
    uint8_t after[RECORD_KEY_BYTES];
    record_key(after, w->list->queue, w->after);
    return page_map_has(&w->list->map, key) && key->mv_size == RECORD_KEY_BYTES &&
                   memcmp(key->mv_data, after, sizeof after) > 0
               ? 0
               : MDB_CORRUPTED;
}

/* Records may be read from a page that LMDB could not write to without harm. */
static void enter_page(struct walk *w, const MDB_val *key)
{
    uintptr_t page = page_of(&w->list->map, key);
    if (page == w->page || w->list->map.begin == 0)
        return;
    w->page = page;
    w->is_page_new = true;
    w->is_page_unsound = !page_is_sound(&w->list->map, key);
}

static int check_item(struct walk *w, const MDB_val *key, const MDB_val *value)
{
    if (check_key(w, key) != 0)
        return MDB_CORRUPTED;
    if (record_key_queue(key->mv_data) != w->list->queue) /* behind the last one of this queue */
        return MDB_NOTFOUND;
    enter_page(w, key);
    if (!page_map_has_value(&w->list->map, key, value))
        return MDB_CORRUPTED;
    w->seq = record_key_seq(key->mv_data);
    return 0;
}

/* Leaves the cursor where it is. */
static bool is_before_the_next(const struct walk *w)
{
    uint8_t own[RECORD_KEY_BYTES];
    MDB_val key;
    record_key(own, w->list->queue, w->seq);
    int error = mdb_cursor_get(w->cursor, &key, NULL, MDB_NEXT);
    if (error)
        return error == MDB_NOTFOUND;
    return page_map_has(&w->list->map, &key) && key.mv_size == RECORD_KEY_BYTES &&
           memcmp(key.mv_data, own, sizeof own) > 0 &&
           mdb_cursor_get(w->cursor, &key, NULL, MDB_PREV) == 0;
}

/* What is wrong with it is in w->what. The number of a damaged one may be wrong as well, and lead
 * past all that follow. */
static int read_record(struct walk *w, const MDB_val *value)
{
    if (record_read(value->mv_data, value->mv_size, w->list->queue, w->seq, &w->record, &w->what) ==
        STATUS_OK) {
        bool is_own = w->record.is_rejected == w->list->rejected;
        w->what = is_own ? NULL : "it is in a wrong list";
        return is_own || w->list->map.begin == 0 ? 0 : MDB_CORRUPTED; /* so is its page */
    }
    bool is_believed = w->seq == w->after + 1 || is_before_the_next(w);
    return is_believed ? 0 : MDB_CORRUPTED;
}

static int find_behind(struct walk *w)
{
    uint8_t key_bytes[RECORD_KEY_BYTES];
    if (w->after == UINT64_MAX) /* a damaged key may say that */
        return MDB_NOTFOUND;
    record_key(key_bytes, w->list->queue, w->after + 1);
    MDB_val key = {sizeof key_bytes, key_bytes}, value;
    int error = mdb_cursor_get(w->cursor, &key, &value, MDB_SET_RANGE);
    if (!error)
        error = check_item(w, &key, &value);
    return error ? error : read_record(w, &value);
}

static int find_next(struct walk *w)
{
    MDB_val key, value;
    int error = mdb_cursor_get(w->cursor, &key, &value, MDB_NEXT);
    if (!error)
        error = check_item(w, &key, &value);
    return error ? error : read_record(w, &value);
}

/* The next record, in w. Guarded. */
static int fetch(void *arg)
{
    struct walk *w = arg;
    w->is_page_new = false;
    return w->is_positioned ? find_next(w) : find_behind(w);
}

/* The body of that record. Guarded. */
static int fetch_body(void *arg)
{
    struct walk *w = arg;
    const struct record *r = &w->record;
    if (r->parted) {
        w->what = collect_parts(w->txn, w->list, w->seq, r->body_size, &w->body, &w->parts);
        w->iov = w->body.many;
        w->count = record_part_count(r->body_size);
    } else {
        w->body.one = (struct iovec){(void *)r->body, (size_t)r->body_size};
        w->iov = &w->body.one;
        w->count = r->body_size > 0;
    }
    return 0;
}

static void close_parts(struct walk *w)
{
    if (w->parts)
        mdb_cursor_close(w->parts);
    w->parts = NULL;
}

/* After an error LMDB does nothing more in that transaction. One that writes cannot begin anew. */
static int begin_anew(struct walk *w)
{
    if (w->cursor)
        mdb_cursor_close(w->cursor);
    w->cursor = NULL;
    w->is_positioned = false;
    w->page = 0;
    mdb_txn_reset(w->txn);
    int error = mdb_txn_renew(w->txn);
    return error ? error : mdb_cursor_open(w->txn, w->list->records, &w->cursor);
}

/* ---- what is passed over ---- */

/* A record that was not visited, and can be read: its number, else 0. */
struct look {
    const struct walk *walk;
    MDB_cursor *cursor;
    uint64_t seq, found;
};

static bool is_own(const struct walk_list *list, uint64_t seq, const MDB_val *value)
{
    struct record record;
    const char *what;
    return record_read(value->mv_data, value->mv_size, list->queue, seq, &record, &what) ==
               STATUS_OK &&
           record.is_rejected == list->rejected;
}

/* The one that stands before a number in the tree. Keys fall on the way back, or it leads through a
 * page in a wrong place. */
static int find_before(void *arg)
{
    struct look *b = arg;
    const struct walk_list *list = b->walk->list;
    uint8_t key_bytes[RECORD_KEY_BYTES];
    MDB_val key = {sizeof key_bytes, key_bytes}, value;
    record_key(key_bytes, list->queue, b->seq);
    int error = mdb_cursor_get(b->cursor, &key, &value, MDB_SET_RANGE);
    if (!error || error == MDB_NOTFOUND)
        error = mdb_cursor_get(b->cursor, &key, &value, error ? MDB_LAST : MDB_PREV);
    if (error)
        return error;
    if (!page_map_has(&list->map, &key) || key.mv_size != RECORD_KEY_BYTES ||
        !page_map_has_value(&list->map, &key, &value))
        return MDB_CORRUPTED;
    uint32_t queue = record_key_queue(key.mv_data);
    uint64_t seq = record_key_seq(key.mv_data);
    if (queue > list->queue || (queue == list->queue && seq >= b->seq))
        return MDB_CORRUPTED;
    if (queue == list->queue && seq > b->walk->after && is_own(list, seq, &value))
        b->found = seq;
    return 0;
}

/* The one with a number, on another page than the last. */
static int find_elsewhere(void *arg)
{
    struct look *l = arg;
    const struct walk_list *list = l->walk->list;
    uint8_t key_bytes[RECORD_KEY_BYTES];
    MDB_val key = {sizeof key_bytes, key_bytes}, value;
    record_key(key_bytes, list->queue, l->seq);
    int error = mdb_cursor_get(l->cursor, &key, &value, MDB_SET_KEY);
    if (error)
        return error;
    if (page_map_has(&list->map, &key) && page_of(&list->map, &key) != l->walk->page &&
        page_map_has_value(&list->map, &key, &value) && is_own(list, l->seq, &value))
        l->found = l->seq;
    return 0;
}

static int look(const struct walk *w, int (*find)(void *arg), uint64_t seq, uint64_t *found)
{
    struct look l = {.walk = w, .seq = seq};
    int error = mdb_cursor_open(w->txn, w->list->records, &l.cursor);
    if (error)
        return error;
    error = guard_run(find, &l);
    mdb_cursor_close(l.cursor);
    *found = l.found;
    return error;
}

/* What stands in a damaged page may lead anywhere: past records that can be read, to one further on
 * or out of the queue. Looked for from there, they stand before it. Returns an LMDB error or 0. */
static int look_before(const struct walk *w, uint64_t seq, uint64_t *found)
{
    return look(w, find_before, seq, found);
}

/* What a damaged page holds too many may look like a record that stands on the next one. */
static bool stands_elsewhere(const struct walk *w)
{
    uint64_t found = 0;
    return w->what && w->is_positioned && look(w, find_elsewhere, w->seq, &found) == 0 && found > 0;
}

/* `is_behind_damage`: what is between the last one and this one cannot be read, and is passed over.
 * Else that is an error. */
static int fetch_next(struct walk *w, bool is_behind_damage)
{
    int error = guard_run(fetch, w);
    if ((error && error != MDB_NOTFOUND) || w->list->map.begin == 0)
        return error;
    if (!error && stands_elsewhere(w))
        return MDB_CORRUPTED;
    if (!error && (!w->is_page_new || w->seq == w->after + 1))
        return 0;
    uint64_t before = 0;
    int damage = look_before(w, error ? UINT64_MAX : w->seq, &before);
    if (before > 0)
        return MDB_CORRUPTED;
    if (!damage || damage == MDB_NOTFOUND)
        return error;
    int begun = begin_anew(w);
    if (begun || error) /* at the end it may be another queue's page */
        return begun ? begun : error;
    return is_behind_damage ? guard_run(fetch, w) : MDB_CORRUPTED;
}

static int probe(void *arg, uint64_t seq, uint64_t *found)
{
    struct walk *w = arg;
    w->after = seq - 1;
    int error = begin_anew(w);
    if (!error)
        error = fetch_next(w, true);
    *found = w->seq;
    return error;
}

uint64_t walk_pass_damage(uint64_t bad, int (*probe_at)(void *arg, uint64_t seq, uint64_t *found),
                          void *arg)
{
    uint64_t step = 1, good = 0, found;
    int error;
    for (unsigned probes = 0; (error = probe_at(arg, bad, &found)) != 0; probes++) {
        if (error == MDB_NOTFOUND)
            break; /* too far, perhaps */
        step = probes < PROBES_ONE_BY_ONE ? 1 : step + step / STEP_DIVISOR + 1;
        if (error == EINVAL || bad > UINT64_MAX / 2 - step)
            return 0;
        bad += step;
    }
    if (!error)
        good = found;
    for (uint64_t low = bad - step; bad - low > 1;) {
        uint64_t middle = low + (bad - low) / 2;
        error = probe_at(arg, middle, &found);
        if (!error)
            good = found;
        if (!error || error == MDB_NOTFOUND)
            bad = middle;
        else
            low = middle;
    }
    return good;
}

/* False if nothing can be read from `bad` on. */
static bool pass_damage(struct walk *w, uint64_t bad)
{
    uint64_t good = walk_pass_damage(bad, probe, w);
    w->after = good - 1;
    return good != 0 && begin_anew(w) == 0;
}

/* Returns an LMDB error or 0; a body that cannot be read is none, unless it writes. */
static int read_body(struct walk *w)
{
    int error = guard_run(fetch_body, w);
    close_parts(w);
    if (!error || !guard_is_damage(error))
        return error;
    w->what = walk_pages_damaged;
    int begun = begin_anew(w);
    return begun == EINVAL ? error : begun;
}

/* Hands the record that was fetched over, with its body if it is wanted. */
static int hand_over(struct walk *w, walk_visit visit, walk_damaged damaged, void *arg,
                     bool *goes_on)
{
    enum walk_choice choice = WALK_TAKE;
    w->iov = NULL;
    w->count = 0;
    if (!w->what && w->list->choose)
        choice = w->list->choose(arg, w->seq, &w->record);
    int error = !w->what && w->list->bodies && choice == WALK_TAKE ? read_body(w) : 0;
    if (error)
        return error;
    if (choice == WALK_TAKE)
        *goes_on = w->what ? damaged(arg, w->seq, w->what)
                           : visit(arg, w->seq, &w->record, w->iov, w->count);
    else
        *goes_on = choice == WALK_PASS;
    return 0;
}

static int walk(struct walk *w, walk_visit visit, walk_damaged damaged, void *arg)
{
    for (;;) {
        int error = fetch_next(w, false);
        if (error == MDB_NOTFOUND)
            return 0;
        if (error && !guard_is_damage(error))
            return error;
        if (error) {
            bool was_positioned = w->is_positioned; /* so it may be the way on that is damaged, */
            uint64_t first = w->after + 1;
            if (begin_anew(w) == EINVAL)
                return error; /* it writes */
            bool goes_on = pass_damage(w, was_positioned ? first : first + 1);
            bool is_known = goes_on && (w->after + 1 == first || error == MDB_BAD_TXN); /* or a part
                                                                         that was told already */
            if ((!is_known && !damaged(arg, first, walk_pages_damaged)) || !goes_on)
                return 0;
            continue;
        }
        w->after = w->seq;
        w->is_positioned = true;
        if (w->is_page_unsound && w->list->tells_unsound)
            damaged(arg, w->seq, walk_pages_unsound);
        w->is_page_unsound = false;
        bool goes_on = false;
        error = hand_over(w, visit, damaged, arg, &goes_on);
        if (error)
            return error;
        if (!goes_on)
            return 0;
    }
}

int walk_list(MDB_txn *txn, struct walk_list list, uint64_t after, walk_visit visit,
              walk_damaged damaged, void *arg)
{
    struct walk w = {.txn = txn, .list = &list, .after = after};
    int error = mdb_cursor_open(txn, list.records, &w.cursor);
    if (error)
        return error;
    error = walk(&w, visit, damaged, arg);
    free(w.body.many);
    if (w.cursor)
        mdb_cursor_close(w.cursor);
    return error;
}

/* ---- an edge ---- */

struct edge {
    MDB_cursor *cursor;
    const struct page_map *map;
    uint32_t queue;
    bool last;
    struct walk_edge found;
};

/* No sequence number is that high: the last record stands before it. */
static int seek_edge(const struct edge *e, MDB_val *key, MDB_val *value)
{
    uint8_t key_bytes[RECORD_KEY_BYTES];
    record_key(key_bytes, e->queue, e->last ? UINT64_MAX : 0);
    *key = (MDB_val){sizeof key_bytes, key_bytes};
    int error = mdb_cursor_get(e->cursor, key, value, MDB_SET_RANGE);
    if (e->last && (error == 0 || error == MDB_NOTFOUND))
        error = mdb_cursor_get(e->cursor, key, value, error ? MDB_LAST : MDB_PREV);
    return error;
}

static int read_edge(void *arg)
{
    struct edge *e = arg;
    MDB_val key, value;
    int error = seek_edge(e, &key, &value);
    if (error)
        return error;
    if (!page_map_has(e->map, &key) || key.mv_size != RECORD_KEY_BYTES ||
        !page_map_has(e->map, &value))
        return MDB_CORRUPTED;
    if (record_key_queue(key.mv_data) != e->queue)
        return MDB_NOTFOUND;
    struct record r;
    const char *what;
    e->found.seq = record_key_seq(key.mv_data);
    if (record_read(value.mv_data, value.mv_size, e->queue, e->found.seq, &r, &what) == STATUS_OK)
        e->found.at_us = r.received_at_us;
    return 0;
}

int walk_edge(MDB_txn *txn, const struct walk_list *list, bool last, struct walk_edge *edge)
{
    struct edge e = {.map = &list->map, .queue = list->queue, .last = last};
    int error = mdb_cursor_open(txn, list->records, &e.cursor);
    *edge = (struct walk_edge){0};
    if (error)
        return error;
    error = guard_run(read_edge, &e);
    mdb_cursor_close(e.cursor);
    if (!error)
        *edge = e.found;
    return error == MDB_NOTFOUND ? 0 : error;
}
